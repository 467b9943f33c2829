"""What every pass promises, and the one runner that holds it to that.

A pass is a frozen dataclass whose fields are its options. It derives from `InPlacePass` or
`FunctionalPass` and writes `call`; calling an instance runs it between checks.
"""

import abc

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

from fxprune.errors import DeclarationError, FxpruneError, PostconditionError, RequirementError
from fxprune.passes.facts import Facts


class Pass(abc.ABC):
    """One change of a graph. Derive from `InPlacePass` or `FunctionalPass`.

    Takes and returns what `torch.fx.passes.infra.pass_manager.PassManager` does, so that passes
    compose in it.
    """

    def __call__(self, module: GraphModule) -> PassResult:
        """Run the pass between the checks of its contract.

        What comes back is linted and runs the code of its graph, whether the pass recompiled or
        not.

        Returns:
            the module, and whether anything changed.

        Raises:
            RequirementError: the module is not what the pass requires; chained to the reason.
            DeclarationError: the pass did something else than its kind or its result declares.
            PostconditionError: what it left is not what it ensures; chained to the reason.
        """
        if not isinstance(module, GraphModule):
            raise RequirementError(
                f"{self.name} takes a torch.fx.GraphModule, not a {type(module).__name__}. Give "
                "it the graph that `capture` made."
            )
        before = Facts.of(module)
        try:
            self.requires(module)
        except FxpruneError as error:
            raise RequirementError(f"{self.name} does not take this graph: {error}") from error
        result = self.call(module)
        if not isinstance(result, PassResult) or not isinstance(result.graph_module, GraphModule):
            raise DeclarationError(
                f"{self.name} returned a {type(result).__name__}. Return PassResult(module, "
                "modified) with a GraphModule."
            )
        self.keeps_kind(module, before, result)
        after: GraphModule = result.graph_module
        self._settle(after)
        try:
            self.ensures(before, after)
        except FxpruneError as error:
            raise PostconditionError(
                f"{self.name} did not give what it ensures: {error}"
            ) from error
        return result

    @property
    def name(self) -> str:
        """Of the pass, for messages."""
        return type(self).__name__

    @abc.abstractmethod
    def call(self, module: GraphModule) -> PassResult:
        """The change itself, without a check: `PassResult(module, modified)`."""

    def requires(self, module: GraphModule) -> None:  # noqa: B027
        """Check what comes in.

        Raises:
            FxpruneError: names the node or weight, what is wrong with it and what to do.
        """

    def ensures(self, before: Facts, after: GraphModule) -> None:  # noqa: B027
        """Check what goes out against what came in.

        Raises:
            FxpruneError: names the node or weight that is not as it should be.
        """

    @abc.abstractmethod
    def keeps_kind(self, module: GraphModule, before: Facts, result: PassResult) -> None:
        """Check that the pass did what its kind says; each kind writes it once.

        Raises:
            DeclarationError: it did something else.
        """

    def _settle(self, module: GraphModule) -> None:
        """Lint the graph, and have the module run it.

        Writing the code is cheap, compiling it is not: a module that is up to date stays as it is.
        """
        try:
            module.graph.lint()
        except (RuntimeError, ValueError) as error:
            first = str(error).splitlines()[0]  # behind which stands the whole graph
            raise PostconditionError(
                f"{self.name} left a graph that is not well formed: {first.rstrip('.')}. "
                "Make a node behind those it reads, and only of tensors and layers that the module "
                "holds."
            ) from error
        if module.graph.python_code(root_module="self").src != module.code:
            module.recompile()

    def _denied(self, difference: str) -> DeclarationError:
        return DeclarationError(
            f"{self.name} says that it changed nothing, but {difference}. Return "
            "PassResult(module, modified=True)."
        )


class InPlacePass(Pass):
    """Changes the module it is given and returns the same object."""

    def keeps_kind(self, module: GraphModule, before: Facts, result: PassResult) -> None:
        """The same object comes back."""
        if result.graph_module is not module:
            raise DeclarationError(
                f"{self.name} is declared in place, but returned another module than it was "
                "given. Change that one, or derive from FunctionalPass."
            )
        if not result.modified and (difference := before.difference(Facts.of(module))):
            raise self._denied(difference)


class FunctionalPass(Pass):
    """Returns another module, and leaves the one it is given as it was."""

    def keeps_kind(self, module: GraphModule, before: Facts, result: PassResult) -> None:
        """Another object comes back, which shares no tensor with the one given; that one's graph
        and tensors are as before.
        """
        if result.graph_module is module:
            raise DeclarationError(
                f"{self.name} is declared functional, but returned the module it was given. "
                "Return a changed copy (copy.deepcopy), or derive from InPlacePass."
            )
        difference = before.difference(Facts.of(module))
        if difference:
            raise DeclarationError(
                f"{self.name} is declared functional, but changed the module it was given: "
                f"{difference}. Change a copy (copy.deepcopy), or derive from InPlacePass."
            )
        after = Facts.of(result.graph_module)
        given = {id(tensor) for tensor in before.tensors.values()}
        for name, tensor in after.tensors.items():
            if id(tensor) in given:
                raise DeclarationError(
                    f"{self.name} is declared functional, but its result shares {name} with the "
                    "module it was given: a write to one would change the other. Clone it."
                )
        if not result.modified and (difference := before.structural_difference(after)):
            raise self._denied(difference)
