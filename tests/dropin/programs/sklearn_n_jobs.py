"""Cross-validation, grid search, permutation importance, learning curves and a forest, with n_jobs and without: the same results."""

import numpy as np
from sklearn.datasets import load_breast_cancer, make_regression
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score, learning_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

X, y = load_breast_cancer(return_X_y=True)
model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
wide, target = make_regression(2_000, 70, random_state=0)  # big enough to be shared with the workers

HistGradientBoostingRegressor(max_iter=2).fit(wide, target)  # uses OpenMP in this process, before workers start


def both(run):
    """run(n_jobs) alone and in parallel must agree."""
    alone, parallel = run(1), run(2)
    assert np.allclose(alone, parallel), (alone, parallel)
    return parallel


scores = both(lambda n: cross_val_score(model, X, y, cv=4, n_jobs=n))
both(lambda n: cross_val_predict(model, X, y, cv=3, n_jobs=n))
both(lambda n: GridSearchCV(Ridge(), {"alpha": [0.1, 1, 10]}, n_jobs=n).fit(wide, target).cv_results_["mean_test_score"])
both(lambda n: cross_val_score(HistGradientBoostingRegressor(max_iter=2, random_state=0), wide, target, cv=3, n_jobs=n))
both(lambda n: RandomForestClassifier(10, random_state=0, n_jobs=n).fit(X, y).predict_proba(X))
both(lambda n: learning_curve(model, X, y, cv=3, n_jobs=n, train_sizes=[0.5, 1.0])[2])
fitted = model.fit(X, y)
both(lambda n: permutation_importance(fitted, X, y, n_repeats=1, random_state=0, n_jobs=n).importances_mean)
print("right:", round(float(scores.mean()), 3))
