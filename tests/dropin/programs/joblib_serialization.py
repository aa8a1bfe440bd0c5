"""Objects, closures and lambdas of the main program, which has no guard."""

import functools

from joblib import Parallel, delayed, wrap_non_picklable_objects


class Account:
    def __init__(self, name, amount):
        self.name, self.amount = name, amount

    def paid(self, amount):
        return Account(self.name, self.amount - amount)


def scaled(factor):
    return lambda x: factor * x


@delayed
@wrap_non_picklable_objects
def square(x, power=2):
    return x**power


accounts = [Account(str(n), n) for n in range(20)]
after = Parallel(n_jobs=2)(delayed(Account.paid)(a, 1) for a in accounts)
assert [(type(a) is Account, a.name, a.amount) for a in after] == [(True, str(n), n - 1) for n in range(20)]
assert Parallel(n_jobs=2)(delayed(scaled(3))(n) for n in range(20)) == [3 * n for n in range(20)]
assert Parallel(n_jobs=2)(square(n) for n in range(20)) == [n * n for n in range(20)]
assert Parallel(n_jobs=2)(delayed(functools.partial(pow, 2))(n) for n in range(20)) == [2**n for n in range(20)]
assert Parallel(n_jobs=2, batch_size=7, pre_dispatch="all")(delayed(abs)(-n) for n in range(20)) == list(range(20))
print("right:", len(after), "accounts")
