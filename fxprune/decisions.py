"""Rules for `decision=`: when two outputs count as the same decision (docs/deciding.md)."""

from fxprune.verify.decisions import Rule, argmax, close, multilabel, next_token, sign

__all__ = ["Rule", "argmax", "close", "multilabel", "next_token", "sign"]
