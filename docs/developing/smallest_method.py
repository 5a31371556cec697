"""A complete token method: after a third of the blocks, the patches of the largest norm stay. B images, N tokens, P patches, D width."""

from autoslim.methods import Knob, Method, SlimmedModel
from autoslim.methods.base import freeze
from autoslim.methods.layers.backbone import install
from autoslim.methods.layers.token_selector import TokenSelector
from autoslim.methods.layers.token_trunk import Trunk, blocks_of
from autoslim.methods.layers.tokens import behind_prefix, order_by


class LargestPatches(TokenSelector):
    """Selects the `patches` patches of the largest L2 norm, and every prefix token."""

    def __init__(self, patches, prefix):
        super().__init__()
        self.patches, self.prefix = patches, prefix

    def rows(self, x_BND):
        norm_BP = x_BND[:, self.prefix :].norm(dim=-1)
        return behind_prefix(order_by(norm_BP)[:, : self.patches], num_prefix_tokens=self.prefix)


class LargestNorm(Method):
    name = "largest_norm"
    paper = "none: an example"
    # `cost_sign` 1: FLOPs rise with the knob, so the solver moves it until the budget is met.
    ranges = {"keep": Knob(kind="float", help="share of the patches kept", default=0.5, low=0.0, high=1.0, cost_sign=1)}  # noqa: RUF012

    def repair(self, shape, knobs):
        # Knobs that select as many patches must be equal: equal recipes are trained once.
        return {"keep": max(1, round(super().repair(shape, knobs)["keep"] * shape.patches)) / shape.patches}

    def expect(self, shape, plan, knobs):
        # What each block computes. FLOPs, parameters and latency follow from it; a module of its own would be an `Extra` here.
        first, left = shape.depth // 3, round(knobs["keep"] * shape.patches) + shape.prefix_tokens
        return plan.with_tokens((shape.tokens,) * first + (left,) * (shape.depth - first))

    def attach(self, model, context, images_B3HW):
        # Nothing is learned before pruning, so no weight asks for a gradient. All epochs go into fine-tuning.
        freeze(model)
        return self.build(model, context.shape, self.expect(context.shape, context.plan, context.knobs), context.knobs)

    def loss(self, knobs, batch):
        return {"loss": batch.task_loss}

    def prune(self, student, context):
        # Says what is fine-tuned, and returns the plan of the model as it is.
        student.requires_grad_(True)
        plan = self.expect(context.shape, context.plan, context.knobs)
        return SlimmedModel(model=student, plan=plan, knobs=context.knobs)

    def build(self, model, shape, plan, knobs):
        # Loading a stored model starts here: the structure, before its weights are read.
        first = shape.depth // 3
        patches = plan.blocks[first].tokens_kv - shape.prefix_tokens
        pre_blocks = {first: LargestPatches(patches, shape.prefix_tokens)} if patches < shape.patches else {}
        return install(model, Trunk(blocks_of(model), pre_blocks))
