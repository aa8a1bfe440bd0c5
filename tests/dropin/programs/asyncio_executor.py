"""A server in asyncio that has its work done by a ProcessPoolExecutor: clients send numbers, and get their factors."""

import asyncio

from manyhands import futures


def factors(number):
    found, at = [], 2
    while number > 1:
        while number % at == 0:
            found.append(at)
            number //= at
        at += 1
    return found


async def main():
    loop = asyncio.get_running_loop()
    with futures.ProcessPoolExecutor(2) as executor:
        await loop.run_in_executor(executor, factors, 1)  # workers that are forked later would keep connections open
        serving = []

        async def serve(reader, writer):
            serving.append(asyncio.current_task())
            async for line in reader:
                found = await loop.run_in_executor(executor, factors, int(line))
                writer.write((" ".join(map(str, found)) + "\n").encode())
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def ask(numbers):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answers = []
            for number in numbers:
                writer.write(f"{number}\n".encode())
                answers.append([int(f) for f in (await reader.readline()).split()])
            writer.close()
            await writer.wait_closed()
            return answers

        numbers = [range(1000 + n, 1010 + n) for n in range(8)]
        answers = await asyncio.gather(*map(ask, numbers))
        server.close()
        await asyncio.gather(*serving)
    assert answers == [[factors(n) for n in some] for some in numbers]
    print("right:", sum(map(len, answers)), "answers")


if __name__ == "__main__":
    asyncio.run(main())
