"""Difficult layers: the lab's clipping holds for them, and broken ones are seen."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ppml_lab import audit, dp, pairs
from ppml_lab.dp import layers, sums, tokens

EXAMPLE = dp.gaussian(0.5, 0.8, privacy_unit="example")


def found(method, **options):
    """What refutes: the layers' names."""
    findings = audit.check_clipping(
        lambda loss: dp.clipped_total(loss, EXAMPLE, method=method, **options), 0.5
    )
    return {f.detector.removeprefix("clipping: ") for f in findings if f.refuted}


@pytest.mark.parametrize(
    ("method", "microbatch_size"),
    [
        ("ghost", None),
        pytest.param("vmap", None, marks=pytest.mark.exhaustive),
        pytest.param("ghost", 96, marks=pytest.mark.exhaustive),
    ],
)
def test_the_labs_clipping_holds_for_difficult_layers(method, microbatch_size):
    assert found(method, microbatch_size=microbatch_size) == set()


def test_norms_told_from_parts_that_cancel_are_seen(monkeypatch):
    def naive(left, right, shape):
        grams = [jnp.einsum("nid,njd->nij", side, side) for side in (left, right)]
        norms = jnp.abs(jnp.sum(grams[0] * grams[1], axis=(1, 2)))
        return tokens.Gradients(
            norms,
            lambda factors: jax.tree.map(
                lambda leaf: leaf.reshape(shape),
                sums.weighted_products(factors, left, right),
            ),
        )

    monkeypatch.setattr(tokens, "_outer", naive)
    assert found("ghost") >= {"cancelling places"}


def test_two_names_of_one_row_are_seen(monkeypatch):
    def naive(layer, weights, inputs, grads):
        rows = inputs.reshape(len(inputs), -1)
        return {"embedding": tokens.Tokens(rows, tokens.places(grads))}

    rule = layers._RULES[layers.nn.Embed]
    monkeypatch.setitem(layers._RULES, layers.nn.Embed, rule._replace(tokens=naive))
    monkeypatch.setattr(tokens, "_table", _naive_table)
    assert found("ghost") == {"two names of one row"}


def _naive_table(rows, right, shape):
    same = rows[:, :, None] == rows[:, None, :]
    products = jnp.einsum("nio,njo->nij", right, right)

    def weighted_sum(factors):
        scaled = (factors[:, None, None] * right).reshape(-1, right.shape[-1])
        return pairs.of(jnp.zeros(shape).at[rows.reshape(-1)].add(scaled))

    return tokens.Gradients(
        jnp.sum(jnp.where(same, products, 0), axis=(1, 2)), weighted_sum
    )


def test_sums_in_the_layers_own_short_floats_are_seen():
    def short(loss: Any) -> Any:
        exact = dp.clipped_total(loss, EXAMPLE, method="vmap")

        def gradient(keys, state, params, examples, weights):
            def add(total, number):
                chosen = jnp.arange(len(weights)) // 64 == number
                own = jnp.where(chosen, weights, 0.0)
                part, _ = exact(keys, state, params, examples, own)
                return jax.tree.map(
                    lambda a, b: a + b.astype(jnp.bfloat16), total, pairs.value(part)
                ), None

            zeros = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, jnp.bfloat16), params
            )
            total, _ = jax.lax.scan(add, zeros, jnp.arange(-(-len(weights) // 64)))
            return pairs.of(total), jnp.float32(0)

        return gradient

    findings = audit.check_clipping(short, 0.5)
    assert any(f.refuted for f in findings), findings


def test_what_is_refused_is_not_refuted():
    def refuses(loss):
        def gradient(*arguments):
            raise ValueError("no such layer")

        return gradient

    findings = audit.check_clipping(refuses, 0.5)
    assert not any(f.refuted for f in findings)
    assert findings[0].detail == "refused: no such layer"
    with pytest.raises(ValueError, match="clip_norm 1 hides bugs"):
        audit.check_clipping(refuses, 1.0)
