"""Fields and the modules that follow them."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

from thalweg import PID
from thalweg.nn import Augment, ConvField, LinearField, MLPField, NeuralODE, ResNet

F64 = torch.float64
TIMES = ["none", "concat", "gated"]
FIELDS = {
    "mlp": (lambda **options: MLPField(3, width=8, depth=2, **options), (5, 3)),
    "linear": (lambda **options: LinearField(3, bias=True, **options), (5, 3)),
    "conv": (lambda **options: ConvField(4, width=6, depth=1, **options), (5, 4, 6, 6)),
}
every_field = pytest.mark.parametrize("kind", FIELDS)
every_time = pytest.mark.parametrize("time", TIMES)


def make(kind, dtype=F64, **options):
    """A field and a state for it."""
    field, shape = FIELDS[kind]
    return field(**options).to(dtype), torch.randn(shape, dtype=dtype)


def gradients(module, z0):
    """Of the state and of every parameter."""
    z0 = z0.clone().requires_grad_()
    return torch.autograd.grad(module(z0).square().sum(), [z0, *module.parameters()])


class TestFields:
    @every_field
    @every_time
    def test_a_time_for_each_row_says_what_one_time_says(self, kind, time):
        field, z = make(kind, time=time)
        t = torch.tensor(0.7, dtype=F64)
        rows = t.expand(len(z)).view(-1, *(1,) * (z.ndim - 1))
        torch.testing.assert_close(field(rows, z), field(t, z), rtol=1e-14, atol=1e-14)
        flows = (NeuralODE(field, step_size=0.25, batching=batching) for batching in ("per_sample", "joint"))
        torch.testing.assert_close(*(flow(z) for flow in flows), rtol=1e-13, atol=1e-13)

    @every_field
    @every_time
    def test_rows_see_their_own_time(self, kind, time):
        field, z = make(kind, time=time)
        times = torch.linspace(-1, 2, len(z), dtype=F64)
        together = field(times.view(-1, *(1,) * (z.ndim - 1)), z)
        alone = torch.cat([field(t, row) for t, row in zip(times, z.split(1), strict=True)])
        torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-13)
        moved = field(times[0] + 1.0, z)
        assert torch.equal(moved, field(times[0], z)) == (time == "none")

    @every_field
    @every_time
    def test_rows_do_not_see_each_other(self, kind, time):
        """To the last bit, in the field and in the flow."""
        field, z = make(kind, time=time)
        other = z.clone()
        other[2] = 10 * torch.randn_like(z[2])
        others = [0, 1, 3, 4]
        t = torch.tensor(0.3, dtype=F64)
        for function in (lambda y: field(t, y), NeuralODE(field)):
            assert torch.equal(function(other)[others], function(z)[others])
            assert not torch.equal(function(other)[2], function(z)[2])

    @pytest.mark.parametrize(
        "activation", ["tanh", "relu", "silu", "gelu", "elu", "softplus", "sigmoid", "sin", torch.cos]
    )
    def test_activations(self, activation):
        function = activation if callable(activation) else getattr(torch, activation, None)
        function = function or getattr(torch.nn.functional, activation)
        field = MLPField(2, width=4, depth=1, activation=activation, time="none")
        z = torch.randn(3, 2)
        expected = field.layers[1].linear(function(field.layers[0].linear(z)))
        assert torch.equal(field(torch.tensor(0.0), z), expected)

    def test_a_linear_field_is_its_matrix(self):
        field, z = LinearField(3).double(), torch.randn(4, 3, dtype=F64)
        (weight,) = field.parameters()
        flow = NeuralODE(field, (0.0, 2.0), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(flow(z), z @ torch.matrix_exp(2 * weight).T, rtol=1e-8, atol=1e-8)

    def test_without_hidden_layers(self):
        for field, z in ((MLPField(2, depth=0), torch.randn(3, 2)), (ConvField(2, depth=0), torch.randn(3, 2, 4, 4))):
            assert field(torch.tensor(0.0), z).shape == z.shape
            assert len(field.layers) == 1

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: MLPField(0), "features must be a positive integer"),
            (lambda: MLPField(2.0), "features must be a positive integer"),
            (lambda: MLPField(True), "features must be a positive integer"),
            (lambda: MLPField(2, width=-1), "width must be a positive integer"),
            (lambda: MLPField(2, depth=-1), "depth must be an integer of 0 or more"),
            (lambda: MLPField(2, depth=1.5), "depth must be an integer of 0 or more"),
            (lambda: MLPField(2, activation="tahn"), "activation must be one of tanh"),
            (lambda: MLPField(2, activation=None), "activation must be one of tanh"),
            (lambda: MLPField(2, time="later"), "time must be 'none', 'concat' or 'gated'"),
            (lambda: LinearField(0), "features must be a positive integer"),
            (lambda: LinearField(2, time=None), "time must be"),
            (lambda: ConvField(0), "channels must be a positive integer"),
            (lambda: ConvField(2, kernel_size=2), "kernel_size must be odd"),
            (lambda: ConvField(2, depth=-1), "depth must be"),
            (lambda: ConvField(2, width=0), "width must be a positive integer"),
            (lambda: NeuralODE(3), "field must be callable"),
            (lambda: NeuralODE(nn.Sequential(nn.Tanh())), r"take a time and a state, .*Sequential takes \(input\)"),
            (lambda: ResNet([MLPField(2), lambda z: z]), r"take a time and a state, .*function takes \(z\)"),
            (lambda: NeuralODE(MLPField(2), t_span=1.0), "t_span must be a pair of numbers"),
            (lambda: NeuralODE(MLPField(2), t_span=(0, 1, 2)), "t_span must be a pair of numbers"),
            (lambda: NeuralODE(MLPField(2), t_span=(0, "late")), "t_span must be a pair of numbers"),
            (lambda: NeuralODE(MLPField(2), t_span=(0, math.nan)), "t_span must be a pair of finite numbers"),
            (lambda: NeuralODE(MLPField(2), t_span=(0, math.inf)), "t_span must be a pair of finite numbers"),
            (lambda: NeuralODE(MLPField(2), method="tist5"), "did you mean 'tsit5'"),
            (lambda: NeuralODE(MLPField(2), method="euler"), "step_size"),
            (lambda: NeuralODE(MLPField(2), batching="each"), "batching must be one of"),
            (lambda: NeuralODE(MLPField(2), gradient="none"), "gradient must be one of"),
            (lambda: NeuralODE(MLPField(2), rtol=-1), "rtol must be a positive number"),
            (lambda: NeuralODE(MLPField(2), rtol=torch.ones(2), atol=torch.ones(3)), "rtol and atol must broadcast"),
            (lambda: NeuralODE(MLPField(2), rtol=torch.zeros(2)), "rtol must be positive in every entry"),
            (lambda: NeuralODE(MLPField(2), max_steps=0), "max_steps must be a positive integer"),
            (lambda: ResNet(MLPField(2)), "depth must be an integer of 0 or more, got None"),
            (lambda: ResNet(MLPField(2), -1), "depth must be an integer"),
            (lambda: ResNet(MLPField(2), True), "depth must be an integer"),
            (lambda: ResNet([MLPField(2)] * 2, 3), "depth must be 2, the number of fields, got 3"),
            (lambda: ResNet(3, 2), "field must be callable"),
            (lambda: Augment(-1), "extra must be an integer of 0 or more"),
            (lambda: Augment(1.0), "extra must be an integer of 0 or more"),
        ],
    )
    def test_bad_arguments_are_one_clear_sentence(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestResNet:
    @every_field
    @every_time
    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    @pytest.mark.parametrize("depth", [0, 1, 4])
    def test_a_shared_block_is_eulers_method_to_the_last_bit(self, kind, time, dtype, depth):
        field, z0 = make(kind, dtype, time=time)
        resnet, flow = ResNet(field, depth), NeuralODE(field, (0, depth), method="euler", step_size=1)
        assert torch.equal(resnet(z0), flow(z0))
        with torch.no_grad():
            assert torch.equal(resnet(z0), flow(z0))
        assert torch.equal(resnet.trajectory(z0), flow.trajectory(z0, range(depth + 1)))
        assert flow.nfev == depth

    @every_field
    @every_time
    @pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (F64, 1e-12)])
    def test_and_so_are_its_gradients(self, kind, time, gradient, dtype, bound):
        field, z0 = make(kind, dtype, time=time)
        flow = NeuralODE(field, (0, 3), method="euler", step_size=1, gradient=gradient)
        for found, expected in zip(gradients(flow, z0), gradients(ResNet(field, 3), z0), strict=True):
            assert (found - expected).norm() <= bound * expected.norm()

    def test_blocks_of_their_own_are_each_applied_once_and_in_order(self):
        fields, z0 = [MLPField(2, width=4, depth=1) for _ in range(3)], torch.randn(5, 2)
        resnet = ResNet(fields)
        z = z0
        for n, field in enumerate(fields):
            z = z + field(torch.tensor(float(n)), z)
        assert torch.equal(resnet(z0), z)
        assert torch.equal(resnet.trajectory(z0)[-1], z)
        assert len(list(resnet.parameters())) == 3 * len(list(fields[0].parameters()))
        assert not torch.equal(resnet(z0), ResNet(fields[0], 3)(z0))


class TestNeuralODE:
    def test_trajectories_pass_through_the_flows_of_shorter_spans(self):
        field, z0 = make("mlp")
        options = {"rtol": 1e-10, "atol": 1e-10}
        times = [0.0, 0.25, 0.5, 1.0]
        path = NeuralODE(field, **options).trajectory(z0, times)
        assert path.shape == (4, *z0.shape)
        assert torch.equal(path[0], z0)
        for z, t in zip(path, times, strict=True):
            torch.testing.assert_close(z, NeuralODE(field, (0, t), **options)(z0), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("names", [["rtol"], ["atol"], ["rtol", "atol"]])
    @pytest.mark.parametrize("shape", [(2,), (1, 2), (5, 1)])
    def test_tolerances_may_differ_by_entry(self, names, shape):
        field, z0 = MLPField(2).double(), torch.randn(5, 2, dtype=F64)
        one, many = (dict.fromkeys(names, value) for value in (1e-5, torch.full(shape, 1e-5, dtype=F64)))
        torch.testing.assert_close(NeuralODE(field, **many)(z0), NeuralODE(field, **one)(z0))

    def test_the_flow_back_undoes_the_flow(self):
        field, z0 = make("mlp")
        options = {"rtol": 1e-10, "atol": 1e-10}
        back = NeuralODE(field, (1, 0), **options)(NeuralODE(field, (0, 1), **options)(z0))
        torch.testing.assert_close(back, z0, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_learnt_times_have_the_gradients_of_finite_differences(self, gradient, batching):
        field, z0 = make("mlp", time="concat")
        options = {"learn_times": True, "gradient": gradient, "batching": batching, "rtol": 1e-11, "atol": 1e-11}
        flow = NeuralODE(field, (0.25, 1.5), **options).double()
        flow(z0).square().sum().backward()
        for time in (flow.t0, flow.t1):
            values = []
            for shift in (1e-4, -2e-4):
                with torch.no_grad():
                    time += shift
                    values.append(flow(z0).square().sum().item())
            with torch.no_grad():
                time += 1e-4
            assert time.grad.item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-6)

    def test_times_that_are_not_learnt_are_no_parameters(self):
        assert {name for name, _ in NeuralODE(LinearField(2), learn_times=True).named_parameters()} == {
            "field.layer.linear.weight",
            "t0",
            "t1",
        }
        assert len(list(NeuralODE(LinearField(2)).parameters())) == 1

    def test_statistics_are_those_of_the_last_solve(self):
        flow, z0 = NeuralODE(MLPField(3, width=8), gradient="adjoint"), torch.randn(5, 3, requires_grad=True)
        assert (flow.nfev, flow.nfev_backward, flow.stats) == (0.0, 0, None)
        flow(z0).sum().backward()
        assert flow.nfev == flow.stats.nfev.double().mean().item() > 0
        assert flow.nfev_backward == flow.stats.nfev_backward > 0
        joint = NeuralODE(flow.field, batching="joint")
        joint(z0)
        assert joint.nfev == joint.stats.nfev

    @pytest.mark.parametrize("structure", [tuple, list, lambda parts: dict(zip("ab", parts, strict=True))])
    def test_a_state_of_several_tensors_flows_as_one(self, structure):
        """z' = -z beside l' = 1, as of a density along its paths, (batch, 2) and (batch, 1)."""
        z0 = structure([torch.ones(5, 2, dtype=F64), torch.zeros(5, 1, dtype=F64)])

        def field(t, z):
            a, b = z.values() if isinstance(z, dict) else z
            return structure([-a, torch.ones_like(b)])

        found = NeuralODE(field, (0.0, 2.0), rtol=1e-9, atol=1e-9)(z0)
        assert type(found) is type(z0)
        expected = structure([torch.full((5, 2), math.exp(-2), dtype=F64), torch.full((5, 1), 2.0, dtype=F64)])
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("transform", [torch.func.grad, lambda f: lambda p: torch.func.jvp(f, (p,), (p,))])
    def test_statistics_outlive_a_transform(self, transform):
        """The module is copied and saved as before: nothing of what the transform wrapped stays in it."""
        flow = NeuralODE(MLPField(2, width=4))
        parameters = dict(flow.named_parameters())
        transform(lambda p: functional_call(flow, p, (torch.ones(3, 2),)).sum())(parameters)
        again = pickle.loads(pickle.dumps(copy.deepcopy(flow)))
        assert again.nfev == flow.nfev > 0

    def test_a_plain_function_is_a_field(self):
        flow = NeuralODE(lambda t, z: -z, rtol=1e-5)
        torch.testing.assert_close(flow(torch.ones(2, 1)), torch.full((2, 1), math.exp(-1)), rtol=1e-4, atol=0)

    @every_field
    @every_time
    def test_copies_of_every_kind_say_the_same(self, kind, time):
        """A state dict, a deep copy and a pickle; also after a solve, whose statistics they carry along."""
        field, z0 = make(kind, torch.float32, time=time)
        flow = NeuralODE(field, (0, 2), learn_times=True, controller=PID(pcoeff=0.4, icoeff=0.3))
        expected = flow(z0)
        fresh = NeuralODE(make(kind, torch.float32, time=time)[0], learn_times=True, controller="pi")
        assert not torch.equal(fresh(z0), expected)
        fresh.options["controller"] = flow.options["controller"]
        buffer = io.BytesIO()
        torch.save(flow.state_dict(), buffer)
        fresh.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
        for twin in (fresh, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
            assert torch.equal(twin(z0), expected)

    @every_field
    def test_another_precision(self, kind):
        field, z0 = make(kind, torch.float32)
        flow = NeuralODE(field, step_size=0.25)
        single, double = flow(z0), copy.deepcopy(flow).to(F64)(z0.double())
        assert (single.dtype, double.dtype) == (torch.float32, F64)
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)

    def test_its_repr_says_how_it_solves(self):
        text = repr(NeuralODE(LinearField(2), (0, 2), method="rk4", step_size=0.5))
        for part in ("t_span=(0, 2)", "method='rk4'", "step_size=0.5", "batching='per_sample'", "LinearField"):
            assert part in text
        assert "t_span=learnt" in repr(NeuralODE(LinearField(2), learn_times=True))
        assert "controller" not in text


class TestAugment:
    @pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 5), (0, 3)])
    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_zeros_come_after_the_features_or_channels(self, shape, dtype):
        z = torch.randn(shape, dtype=dtype)
        wide = Augment(2)(z)
        assert wide.shape == (shape[0], 5, *shape[2:])
        assert wide.dtype == dtype
        assert torch.equal(wide[:, :3], z)
        assert not wide[:, 3:].any()
        assert torch.equal(Augment(0)(z), z)


class TestWhatReadsPrograms:
    """torch.compile, torch.jit.trace and torch.export."""

    @pytest.mark.filterwarnings("ignore")  # PyTorch's own, of what it leaves alone
    @pytest.mark.parametrize("options", [{}, {"backend": "eager"}, {"method": "rk4", "step_size": 0.25}], ids=str)
    def test_a_compiled_model_has_the_answers_and_gradients_that_it_has_as_it_is(self, options):
        torch._dynamo.reset()
        model = nn.Sequential(nn.Linear(2, 3), NeuralODE(MLPField(3, width=8, depth=1), **options), nn.Linear(3, 1))
        compiled = torch.compile(model.double(), backend="eager")
        for rows in (5, 4, 1):
            x = torch.randn(rows, 2, dtype=torch.float64)
            for with_graph in (True, False):
                with torch.set_grad_enabled(with_graph):
                    torch.testing.assert_close(compiled(x), model(x), rtol=1e-12, atol=1e-12)
            found, expected = (
                torch.autograd.grad(m(x).sin().sum(), list(model.parameters())) for m in (compiled, model)
            )
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("gradient", ["adjoint", "gauss"])
    def test_no_part_of_a_solve_is_compiled_nor_of_its_way_back(self, gradient):
        """Also where the step that is compiled runs the backward pass."""
        torch._dynamo.reset()
        k, graphs = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), []

        def step(x):
            k.grad = None
            flow = NeuralODE(lambda t, z: k * torch.erf(z), gradient=gradient)
            flow(x).square().sum().backward()
            return k.grad.clone()

        def backend(graph, inputs):
            graphs.append(graph.code)
            return graph.forward

        x = torch.linspace(-1, 1, 4, dtype=torch.float64).view(2, 2)
        torch.testing.assert_close(torch.compile(step, backend=backend)(x), step(x), rtol=1e-12, atol=0)
        assert not [code for code in graphs if "erf" in code]

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("with_graph", [True, False])
    @pytest.mark.parametrize("backend", ["auto", "eager"])
    def test_a_solve_cannot_be_written_down(self, backend, with_graph):
        flow, z0 = NeuralODE(MLPField(2), backend=backend), torch.randn(5, 2)
        with torch.set_grad_enabled(with_graph):
            with pytest.raises(ValueError, match=r"cannot be written down by torch.jit.trace: its steps"):
                torch.jit.trace(flow, z0, check_trace=False)
            with pytest.raises(ValueError, match=r"cannot be written down by torch.export: its steps"):
                torch.export.export(flow, (z0,))


@pytest.mark.parametrize(
    ("flow", "shape", "message"),
    [
        (NeuralODE(MLPField(2)), (5, 3), r"takes states of shape \(\.\.\., 2\), got \(5, 3\)"),
        (NeuralODE(MLPField(2)), (2,), r"got \(2,\); a state on its own is a batch of one, z\[None\]"),
        (NeuralODE(MLPField(2, time="gated")), (2,), r"got \(2,\); a state on its own is a batch of one"),
        (NeuralODE(LinearField(2)), (5, 1), r"takes states of shape \(\.\.\., 2\), got \(5, 1\)"),
        (ResNet(MLPField(2), 3), (5, 3), r"takes states of shape \(\.\.\., 2\), got \(5, 3\)"),
        (
            NeuralODE(ConvField(2)),
            (5, 3, 4, 4),
            r"takes states of shape \(batch, 2, height, width\), got \(5, 3, 4, 4\)",
        ),
        (NeuralODE(ConvField(2)), (5, 2), r"takes states of shape \(batch, 2, height, width\), got \(5, 2\)"),
        (Augment(1), (3,), r"z must have a batch and features or channels, got shape \(3,\)"),
    ],
)
def test_a_state_of_another_shape_is_refused_in_words(flow, shape, message):
    with pytest.raises(ValueError, match=message):
        flow(torch.zeros(shape))


def test_one_state_without_a_batch_is_followed_where_there_is_one_time():
    field, z0 = MLPField(2), torch.randn(2)
    alone = NeuralODE(field, batching="joint")(z0)
    torch.testing.assert_close(alone, NeuralODE(field, batching="joint")(z0[None])[0])
