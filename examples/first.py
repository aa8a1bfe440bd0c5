import manyhands as multiprocessing


def square(x):
    return x * x


if __name__ == '__main__':
    processes = []
    for i in range(4):
        p = multiprocessing.Process(target=square, args=(i,))
        p.start()
        processes.append(p)
    for p in processes:
        p.join()
    pool = multiprocessing.Pool(processes=4)
    print("Outputs:", pool.map(square, [0, 1, 2, 3, 4]))
