"""What a user may choose by name: the stock parts of each protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppml_lab.lab.parts import (
    data,
    mechanisms,
    metrics,
    models,
    optimizers,
    partitions,
    rules,
    samplers,
    sums,
    table_file,
    tasks,
    trainers,
    wrappers,
)

CHOICES: Mapping[Any, Sequence[type]] = {
    data.Data: (
        data.Digits,
        data.Mnist,
        data.FashionMnist,
        data.Cifar10,
        data.Shakespeare,
        data.Adult,
        data.HeartDisease,
        data.Location30,
        data.BreastCancer,
        data.Diabetes,
        data.Rossi,
        data.Synthetic,
        table_file.TableFile,
    ),
    partitions.Partition: (
        partitions.Iid,
        partitions.Dirichlet,
        partitions.Shards,
        partitions.LabelLimited,
        partitions.QuantitySkew,
        partitions.Natural,
    ),
    models.Model: (
        models.Logistic,
        models.TwoNN,
        models.Mlp,
        models.BatchNormMlp,
        models.Cnn,
        models.LeNet,
        models.TutorialCnn,
        tasks.Regression,
        tasks.LogisticHazard,
        tasks.Factorisation,
    ),
    optimizers.Optimizer: (
        optimizers.Sgd,
        optimizers.Adam,
        optimizers.Yogi,
        optimizers.Adagrad,
    ),
    optimizers.Factor: (optimizers.ExponentialDecay, optimizers.Cosine),
    trainers.Trainer: (
        trainers.FedAvg,
        trainers.FedProx,
        trainers.Scaffold,
        trainers.LocalDpSgd,
        trainers.ExampleGradients,
        wrappers.TopK,
        wrappers.SignFlipping,
    ),
    samplers.Sampler: (
        samplers.Poisson,
        samplers.FixedSize,
        samplers.MinSeparation,
        samplers.Everyone,
    ),
    mechanisms.Mechanism: (
        mechanisms.NoPrivacy,
        mechanisms.Gaussian,
        mechanisms.AdaptiveGaussian,
        mechanisms.ScheduledGaussian,
        mechanisms.CorrelatedGaussian,
        mechanisms.BandedGaussian,
        mechanisms.LocalGaussian,
        mechanisms.LocalLaplace,
        mechanisms.RandomisedResponse,
    ),
    rules.Rule: (rules.Mean, rules.Median, rules.TrimmedMean),
    sums.Sum: (
        sums.Clear,
        sums.AdditiveSharing,
        sums.PairwiseMasking,
        sums.LightSecAgg,
    ),
    sums.Graph: (sums.Complete, sums.KRegular),
    metrics.Metric: (
        metrics.Accuracy,
        metrics.Auroc,
        metrics.F1,
        metrics.MeanSquaredError,
        metrics.R2,
        metrics.Concordance,
    ),
}
