"""Parameter groups by the names they take, schedules by their rates at chosen steps, both by what they refuse and by exact resumption."""

import io
import math
import warnings

import pytest
import torch
from torch import nn

from train.utils import build_lr_scheduler, build_optimizer, parameter_table
from utils.errors import UserError

EVERYTHING = {"type": "AdamW", "params": [{"params": {"include": ["*"]}, "lr": 0.1}]}
TWO = [
    {"params": {"include": ["*"], "exclude": ["*backbone*"]}, "lr": 0.1, "weight_decay": 0.01},
    {"params": {"include": ["*backbone*"]}, "lr": 0.01, "betas": [0.8, 0.9]},
]


def network():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)),
            "head": nn.ModuleDict({"out": nn.Linear(2, 1)}),
            "plain": nn.Linear(2, 1),
        }
    )


def names_of(model, group):
    wanted = {id(value) for value in group["params"]}
    return [name for name, value in model.named_parameters() if id(value) in wanted]


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_the_fused_step_is_the_plain_one_to_rounding(kind):
    config = {"type": kind, "params": [{"params": {"include": ["*"]}, "lr": 1e-2, "weight_decay": 0.1}]}
    fused, plain = network(), network()
    optimizers = [build_optimizer(fused, config), build_optimizer(plain, {**config, "params": [{**config["params"][0], "foreach": False}]})]
    assert optimizers[0].defaults["fused"] and not optimizers[1].defaults["fused"]
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        for one, two in zip(fused.parameters(), plain.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            two.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, two in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
    assert (fused["plain"].bias - network()["plain"].bias).abs().min() > 1e-3


def test_clipping_in_few_kernels_is_the_plain_one_to_rounding():
    found = []
    for foreach in (True, False):
        model = network()
        for i, value in enumerate(model.parameters()):
            value.grad = torch.full_like(value, 1.0 + i)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=foreach)
        found.append([norm, *(value.grad for value in model.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=0, rtol=1e-6)


def test_patterns_divide_the_parameters():
    model = network()
    optimizer = build_optimizer(model, {"type": "AdamW", "params": TWO})
    assert isinstance(optimizer, torch.optim.AdamW)
    first, second = optimizer.param_groups
    assert names_of(model, first) == ["head.out.weight", "head.out.bias", "plain.weight", "plain.bias"]
    assert names_of(model, second) == ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]
    assert (first["lr"], first["weight_decay"], second["lr"], second["betas"]) == (0.1, 0.01, 0.01, (0.8, 0.9))


def test_the_prefix_of_a_wrapper_is_no_part_of_a_name():
    wrapped = nn.Module()
    wrapped.module = network()
    config = {
        "type": "SGD",
        "params": [{"params": {"include": ["backbone.*"]}, "lr": 1.0}, {"params": {"exclude": ["backbone.*"]}, "lr": 2.0}],
    }
    assert [len(group["params"]) for group in build_optimizer(wrapped, config).param_groups] == [4, 4]


def test_frozen_parameters_are_passed_over():
    model = network()
    model["backbone"].requires_grad_(False)
    optimizer = build_optimizer(model, EVERYTHING)
    assert names_of(model, optimizer.param_groups[0]) == ["head.out.weight", "head.out.bias", "plain.weight", "plain.bias"]
    with pytest.raises(UserError, match=r"^optimizer.params\[1\]: no trainable parameter matches include \['\*backbone\*'\]"):
        build_optimizer(model, {"type": "AdamW", "params": TWO})
    with pytest.raises(UserError, match="no trainable parameter; unfreeze"):
        build_optimizer(model.requires_grad_(False), EVERYTHING)


def group(**changes):
    return {"type": "AdamW", "params": [{"params": {"include": ["*"]}, "lr": 0.1} | changes]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "AdamW2", "params": TWO}, "optimizer.type: unknown optimizer 'AdamW2'; did you mean 'AdamW'?"),
        ({"type": "LBFGS", "params": TWO}, "optimizer.type: unknown optimizer 'LBFGS'"),
        ({"type": "AdamW", "parms": TWO}, "optimizer.parms: unknown key; did you mean 'params'?"),
        ({"params": TWO}, "optimizer: found"),
        ({"type": "AdamW", "params": []}, "optimizer.params: found []"),
        ({"type": "AdamW", "params": [3]}, "optimizer.params[0]: found 3"),
        (
            {"type": "AdamW", "params": TWO[:1]},
            "optimizer.params: in no group: backbone.0.weight, backbone.0.bias, backbone.1.weight and 1 more",
        ),
        (
            {"type": "AdamW", "params": [TWO[1], {"params": {"include": ["*"]}, "lr": 1}]},
            "optimizer.params[1]: parameter 'backbone.0.weight' is also in optimizer.params[0]",
        ),
        (
            group(params={"include": ["nothing*"]}),
            "optimizer.params[0]: no trainable parameter matches include ['nothing*'] and exclude []",
        ),
        (group(params={"includes": ["*"]}), "optimizer.params[0].params.includes: unknown key; did you mean 'include'?"),
        (group(params={"include": "*"}), "optimizer.params[0].params.include: found '*'; expected a list of name patterns"),
        (group(weigth_decay=0.1), "optimizer.params[0].weigth_decay: unknown key; did you mean 'weight_decay'?"),
        (group(lr=-1), "optimizer.params[0]: AdamW refuses {'lr': -1}: Invalid learning rate: -1"),
        (group(betas=[0.9, 1.5]), "optimizer.params[0]: AdamW refuses"),
        (group(betas=0.9), "optimizer.params[0]: AdamW refuses"),
        (group(lr="0.1"), "optimizer.params[0].lr: found '0.1'; expected a finite number"),
        (group(lr=math.nan), "optimizer.params[0].lr: found nan; expected a finite number"),
        (group(lr=math.inf), "optimizer.params[0].lr: found inf; expected a finite number"),
        (group(lr=True), "optimizer.params[0].lr: found True; expected a finite number"),
        (group(amsgrad=1), "optimizer.params[0].amsgrad: found 1; expected true or false"),
        ({"type": "AdamW", "params": [{"params": {"include": ["*"]}}]}, "optimizer.params[0].lr: required, but not given"),
    ],
)
def test_bad_optimizers_are_refused(config, message):
    with pytest.raises(UserError) as error:
        build_optimizer(network(), config)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_what_torch_itself_refuses_is_one_line_too():
    with (
        pytest.raises(UserError, match="optimizer: Muon does not take this model")
        if hasattr(torch.optim, "Muon")
        else pytest.raises(UserError)
    ):
        build_optimizer(network(), {"type": "Muon", "params": [{"params": {"include": ["*"]}, "lr": 0.1}]})


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "NAdam", "Adagrad", "Adafactor"])
def test_any_optimizer_of_torch_builds_and_steps(kind):
    model = network()
    optimizer = build_optimizer(model, {"type": kind, "params": [{"params": {"include": ["*"]}, "lr": 0.1}]})
    sum(value.sum() for value in model.parameters()).backward()
    optimizer.step()


# ---- schedules --------------------------------------------------------------------------------------------------------------------------


def optimizer_of(groups=1):
    model = network()
    return build_optimizer(model, EVERYTHING if groups == 1 else {"type": "AdamW", "params": TWO})


def rates(config, steps, groups=1, total=None):
    """The learning rates that updates 0..steps-1 are taken with, one list per update."""
    optimizer = optimizer_of(groups)
    schedule = build_lr_scheduler(optimizer, config, total or steps)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            found.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
    return found


def factors(config, steps, total=None):
    return [rate / 0.1 for (rate,) in rates(config, steps, total=total)]


def test_warmup_and_cosine():
    config = {"type": "WarmupCosine", "params": {"warmup_steps": 4, "min_factor": 0.1}}
    found = factors(config, 14)
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert found[9] == pytest.approx(0.55)  # half way
    assert found[13] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 0.9)) / 2)
    assert factors(config | {"params": config["params"] | {"total_steps": 8}}, 14)[8:] == pytest.approx([0.1] * 6)  # flat beyond the end


def test_the_default_warm_up_is_a_share_of_the_run():
    assert factors({"type": "WarmupCosine"}, 5, total=100) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert factors({"type": "WarmupCosine"}, 1, total=100_000) == pytest.approx([1 / 1000])


def test_the_schedule_of_foundation_stereo():
    found = factors({"type": "LambdaLR", "params": {"lr_lambda": "1 if step < 0.8 * total_steps else 0.1"}}, 10)
    assert found == pytest.approx([1] * 8 + [0.1] * 2)


def test_one_expression_per_group():
    lambdas = ["1.0", "Piecewise((0, epoch < 2), ((epoch - 2) / 2, epoch < 4), (0.5 ** floor((epoch - 2) / 3), True))"]
    found = rates({"type": "LambdaLR", "params": {"lr_lambda": lambdas}}, 6, groups=2)
    assert [rate for rate, _ in found] == pytest.approx([0.1] * 6)
    assert [rate for _, rate in found] == pytest.approx([0, 0, 0, 0.005, 0.01, 0.005])


def test_lengths_are_those_of_the_run_and_of_the_stage():
    assert factors({"type": "LinearLR", "params": {"start_factor": 1.0, "end_factor": 0.5}}, 5)[-1] == pytest.approx(0.6)
    assert factors({"type": "PolynomialLR"}, 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert factors({"type": "CosineAnnealingLR"}, 4)[2] == pytest.approx(0.5)
    assert factors({"type": "OneCycleLR", "params": {"max_lr": 0.2}}, 10)[3] == pytest.approx(2, rel=0.1)
    stages = {
        "schedulers": [{"type": "LinearLR", "params": {"start_factor": 0.25, "total_iters": 3}}, {"type": "CosineAnnealingLR"}],
        "milestones": [3],
    }
    assert factors({"type": "SequentialLR", "params": stages}, 7) == pytest.approx(
        [0.25, 0.5, 0.75, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]
    )


def test_a_sequence_in_a_sequence_is_the_sequence_of_all():
    constant = {"type": "LambdaLR", "params": {"lr_lambda": "0.5"}}
    decay = {"type": "LambdaLR", "params": {"lr_lambda": "1 - step / total_steps"}}
    inner = {"type": "SequentialLR", "params": {"schedulers": [constant, decay], "milestones": [2]}}
    outer = {"type": "SequentialLR", "params": {"schedulers": [decay, inner, constant], "milestones": [2, 6]}}
    assert factors(outer, 8) == pytest.approx([1, 0.5, 0.5, 0.5, 1, 0.5, 0.5, 0.5])


SCHEDULES = {
    "WarmupCosine": {"type": "WarmupCosine", "params": {"warmup_steps": 5}},
    "LambdaLR": {"type": "LambdaLR", "params": {"lr_lambda": "0.5 ** (step / 5)"}},
    "per group": {"type": "LambdaLR", "params": {"lr_lambda": ["1 / (1 + step)", "min(1, step / 12)"]}},
    "MultiplicativeLR": {"type": "MultiplicativeLR", "params": {"lr_lambda": "0.9"}},
    "StepLR": {"type": "StepLR", "params": {"step_size": 4}},
    "MultiStepLR": {"type": "MultiStepLR", "params": {"milestones": [3, 12], "gamma": 0.5}},
    "ConstantLR": {"type": "ConstantLR", "params": {"total_iters": 12}},
    "LinearLR": {"type": "LinearLR"},
    "ExponentialLR": {"type": "ExponentialLR", "params": {"gamma": 0.9}},
    "PolynomialLR": {"type": "PolynomialLR", "params": {"power": 0.9}},
    "CosineAnnealingLR": {"type": "CosineAnnealingLR", "params": {"eta_min": 0.001}},
    "CosineAnnealingWarmRestarts": {"type": "CosineAnnealingWarmRestarts", "params": {"T_0": 4}},
    "OneCycleLR": {"type": "OneCycleLR", "params": {"max_lr": [0.2, 0.3]}},
    "CyclicLR": {"type": "CyclicLR", "params": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3}},
    "SequentialLR": {
        "type": "SequentialLR",
        "params": {
            "schedulers": [
                {"type": "LambdaLR", "params": {"lr_lambda": "(step + 1) / 4"}},
                {"type": "CosineAnnealingLR"},
                {"type": "LambdaLR", "params": {"lr_lambda": ["0.1", "0.5 ** (1 + step)"]}},
            ],
            "milestones": [4, 12],
        },
    },
    "nested": {
        "type": "SequentialLR",
        "params": {
            "schedulers": [
                {"type": "LinearLR", "params": {"total_iters": 3}},
                {
                    "type": "SequentialLR",
                    "params": {
                        "schedulers": [{"type": "ConstantLR", "params": {"factor": 1.0}}, {"type": "WarmupCosine"}],
                        "milestones": [5],
                    },
                },
            ],
            "milestones": [3],
        },
    },
    "ChainedScheduler": {
        "type": "ChainedScheduler",
        "params": {"schedulers": [{"type": "LinearLR", "params": {"total_iters": 4}}, {"type": "ExponentialLR", "params": {"gamma": 0.9}}]},
    },
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", [1, 8, 12])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_schedule_goes_on_exactly(name, stop):
    config, total = SCHEDULES[name], 16
    whole = rates(config, total, groups=2)
    optimizer = optimizer_of(2)
    schedule = build_lr_scheduler(optimizer, config, total)
    for _ in range(stop):
        optimizer.step()
        schedule.step()
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    optimizer = optimizer_of(2)
    schedule = build_lr_scheduler(optimizer, config, total)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    found = []
    for _ in range(stop, total):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert found == whole[stop:]


@pytest.mark.parametrize("name", SCHEDULES)
def test_building_leaves_the_model_alone_and_the_rates_finite(name):
    found = rates(SCHEDULES[name], 16, groups=2)
    assert all(math.isfinite(rate) and rate >= 0 for both in found for rate in both)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "StepLr", "params": {}}, "lr_scheduler.type: unknown schedule 'StepLr'; did you mean 'StepLR'?"),
        ({"type": "ReduceLROnPlateau"}, "lr_scheduler.type: unknown schedule 'ReduceLROnPlateau'"),
        ({"params": {}}, "lr_scheduler: found"),
        ({"type": "StepLR", "param": {}}, "lr_scheduler.param: unknown key; did you mean 'params'?"),
        ({"type": "StepLR", "params": []}, "lr_scheduler.params: found []; expected an object"),
        ({"type": "StepLR", "params": {"stepsize": 3}}, "lr_scheduler.params.stepsize: unknown key; did you mean 'step_size'?"),
        ({"type": "StepLR"}, "lr_scheduler.params.step_size: required by StepLR, but not given"),
        ({"type": "StepLR", "params": {"step_size": 0}}, "lr_scheduler: fails at step 1"),
        ({"type": "StepLR", "params": {"step_size": 2, "gamma": -1}}, "lr_scheduler: the learning rate is [-0.1] at step 2"),
        ({"type": "StepLR", "params": {"step_size": "2"}}, "lr_scheduler.params.step_size: found '2'; expected a finite number"),
        ({"type": "MultiStepLR", "params": {"milestones": "12"}}, "lr_scheduler.params.milestones: found '12'"),
        ({"type": "LinearLR", "params": {"start_factor": 2}}, "lr_scheduler: LinearLR refuses {'start_factor': 2}"),
        ({"type": "StepLR", "params": {"step_size": 1, "last_epoch": 3}}, "lr_scheduler.params.last_epoch: unknown key"),
        (
            {"type": "OneCycleLR", "params": {"max_lr": 1, "total_steps": 5}},
            "lr_scheduler.params.total_steps: found 5; OneCycleLR ends there",
        ),
        ({"type": "WarmupCosine", "params": {"warmup": 3}}, "lr_scheduler.params.warmup: unknown key; did you mean 'warmup_steps'?"),
        ({"type": "WarmupCosine", "params": {"min_factor": 3}}, "lr_scheduler.params.min_factor: found 3"),
        ({"type": "LambdaLR", "params": {"lr_lambda": "stp"}}, "lr_scheduler.params.lr_lambda: 'stp' contains the unknown name 'stp'"),
        (
            {"type": "LambdaLR", "params": {"lr_lambda": ["1", "1"]}},
            "lr_scheduler.params.lr_lambda: found 2 expressions for 1 parameter groups",
        ),
        ({"type": "LambdaLR", "params": {"lr_lambda": ["1 - step"]}}, "lr_scheduler.params.lr_lambda[0]: '1 - step' is -1 at step 2"),
        (
            {"type": "LambdaLR", "params": {"lr_lambda": "1 / step"}},
            "lr_scheduler.params.lr_lambda: '1 / step' cannot be evaluated at step = 0",
        ),
        ({"type": "LambdaLR", "params": {"lr_lambda": None}}, "lr_scheduler.params.lr_lambda: found None; expected an expression"),
        ({"type": "LambdaLR", "params": {"lr_lambda": "__import__('os')"}}, "lr_scheduler.params.lr_lambda: "),
        (
            {"type": "SequentialLR", "params": {"schedulers": [{"type": "LinearLR"}], "milestones": [3]}},
            "lr_scheduler.params.milestones: found [3]; expected growing step numbers",
        ),
        (
            {"type": "SequentialLR", "params": {"schedulers": [{"type": "LinearLR"}, {"type": "Nope"}], "milestones": [3]}},
            "lr_scheduler.params.schedulers[1].type: unknown schedule 'Nope'",
        ),
        (
            {"type": "SequentialLR", "params": {"schedulers": [{"type": "LinearLR"}, {"type": "OneCycleLR"}], "milestones": [3]}},
            "lr_scheduler.params.schedulers[1].type: OneCycleLR is a schedule of a whole run",
        ),
        (
            {"type": "SequentialLR", "params": {"schedulers": [{"type": "SequentialLR", "params": {"milestones": []}}], "milestones": []}},
            "lr_scheduler.params.schedulers[0].params.schedulers: required by SequentialLR",
        ),
        ({"type": "SequentialLR", "params": {"schedulers": [3], "milestones": []}}, "lr_scheduler.params.schedulers[0]: found 3"),
        ({"type": "ChainedScheduler", "params": {"schedulers": []}}, "lr_scheduler.params.schedulers: found []; expected a list"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_schedules_are_refused_when_the_run_is_built(config, message):
    with pytest.raises(UserError) as error:
        build_lr_scheduler(optimizer_of(), config, 20)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_an_expression_that_turns_negative_late_is_refused():
    with pytest.raises(UserError, match="a learning rate cannot be negative"):
        build_lr_scheduler(optimizer_of(), {"type": "LambdaLR", "params": {"lr_lambda": "1 - step / 90000"}}, 100_000)


def test_a_refused_schedule_leaves_the_optimizer_as_it_was():
    optimizer = optimizer_of()
    with pytest.raises(UserError):
        build_lr_scheduler(optimizer, {"type": "StepLR", "params": {"step_size": 0}}, 20)
    assert optimizer.param_groups[0]["lr"] == 0.1 and "initial_lr" not in optimizer.param_groups[0]


def test_the_table_shows_what_trains_at_which_rate():
    model = network()
    model["plain"].requires_grad_(False)
    lines = parameter_table(model, build_optimizer(model, {"type": "AdamW", "params": TWO})).splitlines()
    assert [line.split() for line in lines] == [
        ["module", "parameters", "trainable", "optimizer"],
        ["backbone.0", "9", "9", "group", "1,", "lr", "0.01"],
        ["backbone.1", "8", "8", "group", "1,", "lr", "0.01"],
        ["head.out", "3", "3", "group", "0,", "lr", "0.1"],
        ["plain", "3", "0", "frozen"],
        ["total", "23", "20"],
    ]
