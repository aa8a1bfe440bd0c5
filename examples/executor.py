"""Prime factors of many numbers by an executor: as they come, and from coroutines.

    python examples/executor.py [--count N]
"""

import argparse
import asyncio

from manyhands.futures import ProcessPoolExecutor, as_completed


def factors(number):
    found, at = [], 2
    while at * at <= number:
        while number % at == 0:
            found.append(at)
            number //= at
        at += 1
    return number, found + [number] * (number > 1)


async def count_primes(executor, numbers):
    results = await asyncio.gather(*(executor.submit(factors, n) for n in numbers))
    return sum(len(found) == 1 for _, found in results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    numbers = range(10**9, 10**9 + parser.parse_args().count)
    # a call whose worker dies is run again; one that takes longer than a minute raises TaskTimeout
    with ProcessPoolExecutor(timeout=60, retries=1) as executor:
        most = max(len(f.result()[1]) for f in as_completed([executor.submit(factors, n) for n in numbers]))
        print(f"the most prime factors of one of {len(numbers)} numbers: {most}")
        print(f"primes among them: {asyncio.run(count_primes(executor, numbers))}")


if __name__ == "__main__":
    main()
