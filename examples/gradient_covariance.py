"""Logistic regression from per-sample gradients that are never formed: Newton steps and robust standard errors."""

from __future__ import annotations

import numpy as np

import gradhess as gh


def main() -> None:
    rng = np.random.default_rng(0)
    n, d = 100_000, 8
    X = rng.normal(size=(n, d))
    truth = np.linspace(-1, 1, d)
    y = rng.uniform(size=n) < 1 / (1 + np.exp(-(X @ truth + 0.5)))

    coef, intercept = np.zeros(d), 0.0
    for step in range(8):
        g = gh.glm_gradients(X, y, coef, "logistic", intercept=intercept)
        move = np.linalg.solve(g.hessian(), -g.sum())
        coef, intercept = coef + move[:-1], intercept + move[-1]
        print(f"step {step}: mean loss {g.loss() / n:.8f}, longest move {np.abs(move).max():.1e}")

    g = gh.glm_gradients(X, y, coef, "logistic", intercept=intercept)
    bread = np.linalg.inv(g.hessian())
    sandwich = bread @ g.gram() @ bread
    print()
    print(" truth  estimate  classical s.e.  robust s.e.")
    rows = zip([*truth, 0.5], [*coef, intercept], np.diag(bread), np.diag(sandwich), strict=True)
    for true, estimate, classical, robust in rows:
        print(f"{true:6.3f}  {estimate:8.4f}  {np.sqrt(classical):14.6f}  {np.sqrt(robust):11.6f}")

    norms = g.norms()
    print()
    print(
        f"gradient norms: median {np.median(norms):.3f}, largest {norms.max():.3f} (row {int(np.argmax(norms))})"
    )


if __name__ == "__main__":
    main()
