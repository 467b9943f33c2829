"""Tiny random configurations of transformers: text, state spaces, mixtures of experts, sound and
series.
"""

import torch

from benchmarks.models.tiny import TINY, WORDS, Build, named, tokens

CAUSAL = {"vocab_size": 100, "use_cache": False, **TINY}
GROUPED = {**CAUSAL, "num_key_value_heads": 2}
"""Two heads of keys and values for four of queries."""
PAIR = {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
"""An encoder and a decoder."""
EXPERTS = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
SPOKEN = {
    "conv_dim": [16, 16, 16],
    "conv_stride": [5, 2, 2],
    "conv_kernel": [10, 3, 3],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    **TINY,
}


def _wave() -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(2, 1600)}


def _ids() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 96, (2, 12))}


def _pairs() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 96, (2, 12))
    return {"input_ids": ids, "decoder_input_ids": ids[:, :6].clone()}


def _series() -> dict[str, torch.Tensor]:
    return {"past_values": torch.randn(2, 32, 3)}


TEXT: dict[str, Build] = {
    "mpnet": named("MPNetForSequenceClassification", tokens, **WORDS),
    "funnel": named(
        "FunnelForSequenceClassification",
        tokens,
        vocab_size=100,
        block_sizes=[1, 1],
        num_decoder_layers=1,
        d_model=32,
        n_head=4,
        d_head=8,
        d_inner=64,
    ),
    "deberta-v2": named(
        "DebertaV2ForSequenceClassification",
        tokens,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        **WORDS,
    ),
    "squeezebert": named(
        "SqueezeBertForSequenceClassification", tokens, embedding_size=32, **WORDS
    ),
    "nystromformer": named(
        "NystromformerForSequenceClassification",
        tokens,
        num_landmarks=4,
        segment_means_seq_len=12,
        **WORDS,
    ),
    "perceiver": named(
        "PerceiverForSequenceClassification",
        _ids,
        vocab_size=100,
        d_model=32,
        d_latents=32,
        num_latents=8,
        num_self_attends_per_block=2,
        num_self_attention_heads=4,
        num_cross_attention_heads=4,
        max_position_embeddings=12,
    ),
    "data2vec-text": named("Data2VecTextForSequenceClassification", tokens, **WORDS),
    "xlm-roberta": named("XLMRobertaForSequenceClassification", tokens, **WORDS),
    "albert": named("AlbertForSequenceClassification", tokens, embedding_size=16, **WORDS),
    "electra": named("ElectraForSequenceClassification", tokens, embedding_size=16, **WORDS),
    "convbert": named(
        "ConvBertForSequenceClassification", tokens, embedding_size=32, head_ratio=2, **WORDS
    ),
    "mobilebert": named(
        "MobileBertForSequenceClassification",
        tokens,
        embedding_size=32,
        intra_bottleneck_size=16,
        **WORDS,
    ),
    "fnet": named("FNetForSequenceClassification", _ids, tpu_short_seq_length=12, **WORDS),
    "roformer": named("RoFormerForSequenceClassification", tokens, embedding_size=32, **WORDS),
    "ibert": named("IBertForSequenceClassification", tokens, **WORDS),
    "layoutlm": named("LayoutLMForSequenceClassification", tokens, **WORDS),
    "esm": named(
        "EsmForSequenceClassification",
        tokens,
        pad_token_id=1,
        mask_token_id=2,
        position_embedding_type="rotary",
        **WORDS,
    ),
    "modernbert": named("ModernBertForSequenceClassification", tokens, pad_token_id=0, **WORDS),
    "xlnet": named(
        "XLNetForSequenceClassification",
        tokens,
        vocab_size=100,
        d_model=32,
        n_layer=2,
        n_head=4,
        d_inner=64,
    ),
    "bart": named(
        "BartModel",
        _pairs,
        max_position_embeddings=64,
        use_cache=False,
        **PAIR,
    ),
    "t5": named(
        "T5ForConditionalGeneration",
        _pairs,
        vocab_size=100,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        use_cache=False,
    ),
    "opt": named(
        "OPTForCausalLM",
        tokens,
        ffn_dim=64,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        **CAUSAL,
    ),
    "gpt-neox": named("GPTNeoXForCausalLM", tokens, **CAUSAL),
    "bloom": named(
        "BloomForCausalLM",
        tokens,
        vocab_size=100,
        hidden_size=32,
        n_layer=2,
        n_head=4,
        use_cache=False,
    ),
    "mistral": named("MistralForCausalLM", tokens, **GROUPED),
    "qwen3": named("Qwen3ForCausalLM", tokens, head_dim=8, **GROUPED),
    "gemma2": named("Gemma2ForCausalLM", tokens, head_dim=8, **GROUPED),
    "phi3": named("Phi3ForCausalLM", tokens, pad_token_id=0, **GROUPED),
    "mixtral": named("MixtralForCausalLM", tokens, num_local_experts=4, **GROUPED),
    "qwen2-moe": named(
        "Qwen2MoeForCausalLM",
        tokens,
        num_experts=4,
        shared_expert_intermediate_size=32,
        **EXPERTS,
        **GROUPED,
    ),
    "olmoe": named("OlmoeForCausalLM", tokens, num_experts=4, num_experts_per_tok=2, **GROUPED),
    "mamba": named(
        "MambaForCausalLM",
        _ids,
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        use_cache=False,
    ),
    "mamba2": named(
        "Mamba2ForCausalLM",
        _ids,
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        chunk_size=4,
        use_cache=False,
    ),
    "jamba": named(
        "JambaForCausalLM",
        _ids,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=4,
        expert_layer_period=2,
        expert_layer_offset=1,
        **GROUPED,
    ),
    "falcon-h1": named(
        "FalconH1ForCausalLM",
        _ids,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=4,
        mamba_n_groups=1,
        mamba_chunk_size=4,
        **GROUPED,
    ),
    "rwkv": named(
        "RwkvForCausalLM",
        _ids,
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        attention_hidden_size=32,
        intermediate_size=64,
        context_length=32,
        use_cache=False,
    ),
    "recurrent-gemma": named(
        "RecurrentGemmaForCausalLM", _ids, lru_width=32, attention_window_size=8, **GROUPED
    ),
    "lfm2": named("Lfm2ForCausalLM", _ids, layer_types=["conv", "full_attention"], **GROUPED),
    "hubert": named("HubertModel", _wave, **SPOKEN),
    "wavlm": named("WavLMModel", _wave, num_buckets=16, max_bucket_distance=32, **SPOKEN),
    "unispeech": named("UniSpeechModel", _wave, **SPOKEN),
    "sew": named("SEWModel", _wave, squeeze_factor=2, **SPOKEN),
    "sew-d": named("SEWDModel", _wave, squeeze_factor=2, max_position_embeddings=64, **SPOKEN),
    "wav2vec2-conformer": named("Wav2Vec2ConformerModel", _wave, **SPOKEN),
    "data2vec-audio": named("Data2VecAudioModel", _wave, **SPOKEN),
    "whisper": named(
        "WhisperModel",
        lambda: {
            "input_features": torch.randn(2, 16, 40),
            "decoder_input_ids": torch.randint(0, 96, (2, 6)),
        },
        num_mel_bins=16,
        max_source_positions=20,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        use_cache=False,
        **PAIR,
    ),
    "ast": named(
        "ASTForAudioClassification",
        lambda: {"input_values": torch.randn(2, 48, 32)},
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
        max_length=48,
        num_mel_bins=32,
        **TINY,
    ),
    "patchtst": named(
        "PatchTSTForPrediction",
        _series,
        num_input_channels=3,
        context_length=32,
        patch_length=8,
        patch_stride=8,
        prediction_length=8,
        d_model=32,
        num_attention_heads=4,
        ffn_dim=64,
        num_hidden_layers=2,
    ),
    "patchtsmixer": named(
        "PatchTSMixerForPrediction",
        _series,
        num_input_channels=3,
        context_length=32,
        patch_length=8,
        patch_stride=8,
        prediction_length=8,
        d_model=16,
        num_layers=2,
    ),
}
