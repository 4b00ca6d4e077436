"""Worker processes send noised batch gradients over sockets, and nothing else; the receiver recovers the Hessian and
trains with it.

Each worker holds data of its own: another mean of the features and another optimum. Round by round the server sends the
parameters, every worker answers with a few batch gradients, and the server takes one step with their mean. In the first
rounds the workers add the noise that calibration asks for to their targets; the covariance of what arrives, centred for
each worker and round, is then the Hessian, which preconditions the rest. Plain SGD goes on at the largest step that is
safe. Both see gradients without noise after the first rounds.

    python examples/recovery_distributed.py [--plot FILE] [--rounds N]
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradhess import recovery as rec
from gradhess._plot import figure as look

Array = npt.NDArray[np.float64]

N_WORKERS, ROWS, D = 3, 20_000, 12
BATCH = 400
PER_ROUND = 30
"""Gradients that a worker sends in a round."""
WARM_UP = 20
"""Rounds of plain steps, whose gradients tell the Hessian."""
KEY = b"gradhess example"


def local_data(worker: int) -> tuple[Array, Array]:
    """What only this worker sees. The features are of very different sizes, so plain steps are slow."""
    shared = np.random.default_rng(0)
    basis, _ = np.linalg.qr(shared.standard_normal((D, D)))
    root = (basis * np.geomspace(1, 0.01, D)) @ basis.T
    optimum = shared.standard_normal(D)
    own = np.random.default_rng([1, worker])
    X = (own.standard_normal((ROWS, D)) + 0.2 * own.standard_normal(D)) @ root
    y = X @ (optimum + 0.1 * own.standard_normal(D)) + 0.5 * own.standard_normal(ROWS)
    return X, y


def work(worker: int, address: tuple[str, int]) -> None:
    """A worker process: parameters and whether to add noise come in, gradients go out, until None comes."""
    X, y = local_data(worker)
    noise = np.random.default_rng([2, worker])
    variance = rec.calibrated_noise_variance(BATCH, existing=0.25)
    with Client(address, authkey=KEY) as server:
        server.send(worker)
        step = 0
        while (request := server.recv()) is not None:
            coef, noised = request
            oracle = rec.LinearRegressionOracle(X, y, coef, batch_size=BATCH, rng=1000 * worker + step)
            batches = oracle.draw_batches(PER_ROUND)
            added = (
                noise.standard_normal(batches.shape) * np.sqrt(variance)
                if noised
                else np.zeros(batches.shape)
            )
            server.send(oracle.gradients(batches, added))
            step += 1


def ask(workers: dict[int, Connection], coef: Array, *, noised: bool) -> dict[int, Array]:
    """The gradients of every worker at these parameters: (PER_ROUND, D) each."""
    for connection in workers.values():
        connection.send((coef, noised))
    return {worker: connection.recv() for worker, connection in workers.items()}


def train(
    workers: dict[int, Connection], rounds: int, step: float
) -> tuple[list[Array], list[Array], rec.HessianReceiver]:
    """Parameters after every round, of plain SGD and of preconditioned steps, and what the receiver has."""
    receiver = rec.HessianReceiver(BATCH, rec.calibrated_noise_variance(BATCH, existing=0.25), existing=0.25)
    plain = [np.zeros(D)]
    for number in range(rounds):
        answers = ask(workers, plain[-1], noised=number < WARM_UP)
        if number < WARM_UP:
            for worker, gradients in answers.items():
                # A gradient has another mean at other parameters: centred for each worker and round.
                receiver.partial_fit(gradients, worker=(worker, number))
        plain.append(plain[-1] - step * np.mean(list(answers.values()), axis=(0, 1)))
    fast = plain[: WARM_UP + 1]
    inverse = rec.preconditioner(receiver.hessian_)
    for _ in range(WARM_UP, rounds):
        gradient = np.mean(list(ask(workers, fast[-1], noised=False).values()), axis=(0, 1))
        fast.append(fast[-1] - inverse.step(gradient))
    return plain, fast, receiver


def draw(path: Path, losses: dict[str, Array]) -> None:
    figure = look.new_figure(7.0, 4.2)
    axes = figure.subplots()
    for (name, values), colour, dash in zip(losses.items(), look.COLOURS, ("-", "--"), strict=False):
        axes.plot(np.arange(len(values)), values, dash, color=colour, linewidth=1.8, label=name)
    axes.axvline(WARM_UP, color=look.MUTED, linewidth=1, linestyle=":")
    axes.text(
        WARM_UP + 0.8,
        0.5,
        "Hessian recovered",
        color=look.MUTED,
        va="bottom",
        transform=axes.get_xaxis_transform(),
    )
    axes.set_yscale("log")
    look.tidy(axes, x="round", y="mean loss above the optimum")
    axes.legend(frameon=False, fontsize=look.TEXT_SIZE, loc="upper right")
    look.title(figure, f"{N_WORKERS} worker processes that send gradients, and nothing else")
    look.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plot", type=Path, default=Path("recovery-distributed.png"))
    parser.add_argument("--rounds", type=int, default=100)
    chosen = parser.parse_args()

    # Known to the example alone, for the plot and the comparison: all data in one place.
    data = [local_data(worker) for worker in range(N_WORKERS)]
    hessian = sum(X.T @ X for X, _ in data) / (N_WORKERS * ROWS)
    step = 1 / np.linalg.eigvalsh(hessian)[-1]

    context = mp.get_context("spawn")
    with Listener(("localhost", 0), authkey=KEY) as listener:
        processes = [context.Process(target=work, args=(w, listener.address)) for w in range(N_WORKERS)]
        for process in processes:
            process.start()
        connections = [listener.accept() for _ in processes]
        workers = {connection.recv(): connection for connection in connections}
        plain, fast, receiver = train(dict(sorted(workers.items())), chosen.rounds, step)
        for connection in connections:
            connection.send(None)
        for process in processes:
            process.join()

    def losses(path: list[Array]) -> Array:
        return np.array([np.mean([((X @ w - y) ** 2).mean() / 2 for X, y in data]) for w in path])

    moment = sum(X.T @ y for X, y in data) / (N_WORKERS * ROWS)
    best = float(losses([np.linalg.solve(hessian, moment)])[0])
    curves = {
        "plain SGD": losses(plain) - best,
        "preconditioned with the recovered Hessian": losses(fast) - best,
    }
    error = rec.whitened_error(receiver.hessian_, hessian)
    print(
        f"{receiver.n_gradients_:,} gradients of {len(processes)} processes arrived until the Hessian was used"
    )
    print(f"whitened error {error:.3f}, predicted sampling error {receiver.sampling_error_:.3f}")
    for name, values in curves.items():
        print(f"mean loss above the optimum after {chosen.rounds} rounds, {name}: {values[-1]:.2e}")
    draw(chosen.plot, curves)
    print(f"plot: {chosen.plot}")


if __name__ == "__main__":
    main()
