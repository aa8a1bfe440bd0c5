"""The perceptron with PyTorch on the CPU.    /usr/bin/python3 bench/peers/nn_torch.py EPOCHS BATCH THREADS"""

import gzip
import json
import sys
import time

import numpy
import torch

FOLDER = "/usr/share/datasets/fashion-mnist/"


def read(name, header):
    return torch.from_numpy(numpy.frombuffer(gzip.open(f"{FOLDER}{name}-ubyte.gz").read()[header:], numpy.uint8).copy())


epochs, batch, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(1)
x, tests = ((read(name, 16).reshape(-1, 784) / 255 - 0.286) / 0.353 for name in ("train-images-idx3", "t10k-images-idx3"))
y, answers = read("train-labels-idx1", 8).long(), read("t10k-labels-idx1", 8).long()
model = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (len(x) // batch * epochs + 1))
loss_of = torch.nn.CrossEntropyLoss()
start = time.perf_counter()
for _ in range(epochs):
    order = torch.randperm(len(x))
    for first in range(0, len(x) - batch + 1, batch):
        chosen = order[first:first + batch]
        optimizer.zero_grad()
        loss_of(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        accuracy = (model(tests).argmax(1) == answers).float().mean().item()
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "accuracy": accuracy, "version": torch.__version__}))
