"""Good calls of what builders return: every function of their records."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab import data, dp, federated, models, pairs, smpc

from . import parts
from .values import ANY, good

UPDATE = {"w": jnp.ones((2, 3))}
WEIGHTS = np.ones(6, np.float32)
ARRAYS = ("float32 nan", "2-d", "two floats")
"""Trees of arrays of numbers: whether their shapes are right, a compiler says."""
NONE = ("()", "{}")
"""Trees without arrays, which a model without parameters has."""
MODEL = ARRAYS + NONE


def functions(prefix: str, record: Any, may_be: Any = (), /, **values: Any) -> Any:
    """A good call of each function of a record, with these values by argument. What
    arguments may be is said by name, or, of what one function alone ignores, by the
    name of that function, a point and its own.
    """
    calls = {}
    for name, function in record._asdict().items():
        if not callable(function) or isinstance(function, type):
            continue
        own = {one: values[one] for one in inspect.signature(function).parameters}
        ignored = {one: ANY for one in own if f"{name}.{one}" in may_be}
        fits = dict(may_be) | ignored
        calls[f"{prefix}.{name}"] = good(function, fits, False, **own)
    return calls


def of_mechanism(name: str, mechanism: Any, sampler: Any = parts.SAMPLER) -> Any:
    state = mechanism.init(parts.KEY, UPDATE)
    trees = dict.fromkeys(("update", "total"), ARRAYS) | {"like": MODEL}
    return functions(
        name,
        mechanism,
        trees
        | {
            "sensitivity": ("0", "inf"),
            "state": ("float32 nan",) if jax.tree.leaves(state) else ANY,
        },
        key=parts.KEY,
        like=UPDATE,
        state=state,
        update=UPDATE,
        total=jax.eval_shape(mechanism.clip, parts.KEY, state, UPDATE),
        gradients=dp.PerExample(jnp.ones(6), UPDATE, pairs.of),
        weights=WEIGHTS,
        sensitivity=0.5,
        sampler=sampler,
        num_releases=3,
        sums=None,
    )


MECHANISMS = {
    "no_privacy": dp.no_privacy(),
    "gaussian": parts.CENTRAL,
    "adaptive_gaussian": dp.adaptive_gaussian(0.5, 2.0, 100.0),
    "scheduled_gaussian": dp.scheduled_gaussian(0.5, 2.0),
    "local_gaussian": dp.local_gaussian(0.5, 2.0),
    "local_laplace": dp.local_laplace(0.5, 2.0),
    "live": dp.live(parts.CENTRAL, parts.SAMPLER, 1e-3),
}
GRADIENT = {
    "key": parts.KEY,
    "keys": dp.example_keys(parts.KEY, 6),
    "state": (),
    "params": parts.PARAMS,
    "examples": parts.ROWS,
    "weights": WEIGHTS,
}


def gradient(function: Any) -> Any:
    names = inspect.signature(function).parameters
    may_be = {"state": ANY, "weights": ("two floats",)}
    return good(function, may_be, False, **{name: GRADIENT[name] for name in names})


DP = {
    "gradient(summed)": gradient(dp.summed_gradient(parts.TASK.loss)),
    "gradient(clipped)": gradient(dp.clipped_gradient(parts.TASK.loss, parts.EXAMPLES)),
    "gradient(total)": gradient(dp.clipped_total(parts.TASK.loss, parts.EXAMPLES)),
}
for name, mechanism in MECHANISMS.items():
    DP |= of_mechanism(name, mechanism)
DP |= of_mechanism(
    "correlated_gaussian",
    dp.correlated_gaussian(0.5, 2.0, 0.5),
    federated.min_separation(6, 2),
)
# Of its functions, one alone reads its state.
ANSWERS = dp.randomised_response(0.5, 2.0)
DP |= of_mechanism("randomised_response", ANSWERS._replace(init=lambda key, like: ()))
DP["randomised_response.init"] = good(
    ANSWERS.init, {"like": MODEL}, False, key=parts.KEY, like=UPDATE
)
DP["randomised_response.message_bound"] = good(
    ANSWERS.message_bound, {"state": ("float32 nan",)}, False, state=jnp.float32(1)
)

SAMPLERS = {
    "poisson": parts.SAMPLER,
    "fixed_size": federated.fixed_size(3, 2),
    "everyone": federated.everyone(3),
    "min_separation": federated.min_separation(6, 2),
}
ALGORITHMS = {
    "averaging": parts.ALGORITHM,
    "central_sgd": federated.central_sgd(
        parts.TASK, parts.SGD, federated.poisson(6, 0.5)
    ),
}
SCAFFOLD = federated.scaffold(parts.TASK, parts.SGD, 2, num_steps=1)
TRAINERS = {
    "local_sgd": parts.TRAINER,
    "local_dp_sgd": federated.local_dp_sgd(
        parts.TASK, parts.SGD, parts.EXAMPLES, 0.5, 1, 2
    ),
    "scaffold[0]": SCAFFOLD[0],
    "top_k": federated.top_k(parts.TASK, parts.TRAINER, num_sent=1),
    "sign_flipping": federated.sign_flipping(parts.TRAINER, [0]),
    "example_gradients": federated.example_gradients(
        parts.TASK, data.people(parts.CLIENTS), 0.5
    ),
}
SERVERS = {"fedopt": federated.fedopt(parts.SGD), "scaffold[1]": SCAFFOLD[1]}
FEDERATED = {
    "evaluator(...)": good(
        federated.evaluator(parts.TASK), params=parts.PARAMS, examples=parts.ROWS
    ),
    "client_evaluator(...)": good(
        federated.client_evaluator(parts.TASK),
        params=parts.PARAMS,
        clients=parts.CLIENTS,
    ),
    "training_on_shares.train": good(
        federated.training_on_shares(
            parts.PROTOCOL,
            lambda params, examples: params,
            lambda owners: owners,
            num_steps=1,
            learning_rate=0.1,
            num_examples=6,
        ).train,
        {"params": ARRAYS},
        False,
        key=parts.KEY,
        params=parts.PARAMS,
        parts={"a": parts.ROWS["x"]},
    ),
}
for name, sampler in SAMPLERS.items():
    FEDERATED |= functions(
        name,
        sampler,
        {} if name == "min_separation" else {"state": ANY},
        key=parts.KEY,
        state=sampler.init(parts.KEY),
        event=parts.ONE,
        num_rounds=3,
    )
for name, algorithm in ALGORITHMS.items():
    FEDERATED |= functions(
        name,
        algorithm,
        key=parts.KEY,
        state=jax.eval_shape(algorithm.init, parts.KEY),
        clients=parts.CLIENTS,
        num_rounds=3,
    )
TRAINING = dict.fromkeys(("size", "round_number", "step_number"), ("0",))
TRAINING |= {"params": MODEL, "model.kept": ()}
IGNORED = {"sent": MODEL, "init.kept": ()}
"""By trainers whose clients keep nothing and do not ask what was sent."""
for name, trainer in TRAINERS.items():
    sent, kept = parts.PARAMS, trainer.keep(parts.PARAMS)
    if name.startswith("scaffold"):
        server = SCAFFOLD[1]
        sent = server.send(parts.PARAMS, server.init(parts.PARAMS))
    FEDERATED |= functions(
        name,
        trainer,
        TRAINING | ({} if name.startswith("scaffold") else IGNORED),
        key=parts.KEY,
        params=parts.PARAMS,
        sent=sent,
        kept=kept,
        state=jax.eval_shape(trainer.init, parts.KEY, sent, kept, jnp.int32(0)),
        size=2,
        round_number=1,
        step_number=1,
        client=data.view(parts.CLIENTS, 0),
    )
for name, server in SERVERS.items():
    memory = server.init(parts.PARAMS)
    FEDERATED |= functions(
        name,
        server,
        {"params": MODEL, "share": ("0", "inf"), "mean": ARRAYS}
        | (
            {"send.memory": (), "step.share": ()}
            if name == "fedopt"
            else {"memory": ("two floats",)}
        ),
        params=parts.PARAMS,
        memory=memory,
        mean=server.send(parts.PARAMS, memory),
        share=0.5,
    )
MODELS = functions(
    "task",
    parts.TASK,
    key=parts.KEY,
    params=parts.PARAMS,
    examples=parts.ROWS,
)
X, TIME = parts.ROWS["x"], np.array([1.0, 0.5, 2.0, 0.1, 3.0, 1.0], np.float32)
TOKENS = np.arange(12, dtype=np.int32).reshape(6, 2) % 3
TASKS = {
    "regression": (
        models.regression(lambda key: {"w": jnp.zeros(2)}, lambda p, x: x @ p["w"]),
        {"x": X, "y": TIME},
    ),
    "sequence": (
        models.sequence(lambda key: {"w": jnp.zeros((3, 3))}, lambda p, x: p["w"][x]),
        {"x": TOKENS, "y": TOKENS},
    ),
    "survival": (
        models.flax_survival(models.linear(2), (2,), (1.0, 2.0)),
        {"x": X, "y": {"time": TIME, "event": parts.ROWS["y"]}},
    ),
    "factorisation": (
        models.factorisation(3, 2),
        {"item": TOKENS[:, 0], "rating": TIME},
    ),
}
for name, (task, rows) in TASKS.items():
    MODELS |= functions(
        name,
        task,
        {"roles.params": ()},
        key=parts.KEY,
        params=jax.eval_shape(task.init, parts.KEY),
        examples=rows,
    )

AGGREGATORS = {
    "clear": smpc.clear(),
    "additive_sharing": smpc.additive_sharing(3, 5, 8.0),
    "pairwise_masking": smpc.pairwise_masking(parts.GRAPH, 8.0),
    "light_secagg": smpc.light_secagg(parts.CODE, 8.0),
    "coordinate_median": federated.coordinate_median(),
}
EVERYBODY = np.ones(5, bool)
PLACES = np.arange(5)
SMPC = {}
for name, aggregator in AGGREGATORS.items():
    session = jax.eval_shape(
        lambda who, begin=aggregator.begin: begin(parts.KEY, who, who, 8.0), EVERYBODY
    )
    place = jnp.int32(0)
    message = jax.eval_shape(aggregator.encode, parts.KEY, session, place, UPDATE)
    messages, totals = (
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((5, *leaf.shape), leaf.dtype), x)
        for x in (message, aggregator.empty(message))
    )
    SMPC |= functions(
        name,
        aggregator,
        {
            "session": () if jax.tree.leaves(session) else ANY,
            "place": ("0",),
            "update": ARRAYS,
            "like_message": MODEL,
            "value": ARRAYS,
            "max_abs": ("inf",),
            "norm": ("0", "inf"),
            "num_invited": ("two floats",),
            "num_reports": ("two floats",),
        },
        key=parts.KEY,
        invited=EVERYBODY,
        reporting=EVERYBODY,
        max_abs=8.0,
        session=session,
        place=1,
        update=UPDATE,
        like_message=message,
        total=aggregator.empty(message),
        messages=messages,
        places=PLACES,
        present=EVERYBODY,
        totals=totals,
        value=UPDATE,
        norm=0.5,
        dimension=10,
        num_places=5,
        num_invited=np.array([5]),
        num_reports=np.array([4]),
    )
AUDIT = functions(
    "dirac(...)",
    parts.DIRECTIONS,
    {"tree": ARRAYS, "weights": ("two floats",)},
    numbers=np.array([0, 1]),
    weights=np.ones(2, np.float32),
    tree=parts.PARAMS,
)
