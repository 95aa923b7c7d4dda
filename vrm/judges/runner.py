"""Everything around a judge that costs money or time: cache, limits, retries, counts."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from vrm.judges.base import BudgetError, Counts, Fault, Judge, JudgeError, Question, Reply
from vrm.judges.cache import ReplyCache
from vrm.judges.parse import parse_choice

T = TypeVar("T")
LOG = logging.getLogger(__name__)


class JudgeRunner:
    """Puts questions to a judge, each at most once.

    Questions that were answered before, in this process or one that was killed, come from the cache; the others go out
    in batches, several at once. A request that fails for a passing reason is repeated after
    ``base_delay * 2^n`` seconds, at most ``max_delay``, times a random factor in [0.5, 1], or after what the server
    asked for if that is longer. Failures are never kept. Questions left without a usable answer are logged.

    Args:
        judge: who answers.
        cache: folder for answers; None keeps them in memory only.
        concurrency: requests under way at once; the judge's own number by default.
        requests_per_minute: requests are sent at least this far apart; None for no limit.
        max_requests: requests that this runner may send in its life, repeats included.
        max_tokens: tokens after which it sends no more; requests under way then may go beyond.
        retries: repeats of one request.
        base_delay: seconds before the first repeat.
        max_delay: most seconds before a repeat, unless the server asks for more.
        seed: of the random factor.

    Raises:
        ValueError: if a limit is not positive.

    Example:
        >>> from vrm.judges import SimJudge
        >>> runner = JudgeRunner(SimJudge(vrm.load_encoder("vrm-sim")), cache="judged")  # doctest: +SKIP
        >>> print(runner.counts)  # doctest: +SKIP
        0 asked, 0 cached, 0 requests (0 retries), 0 failed, 0 unparsable, 0 tokens
    """

    def __init__(
        self,
        judge: Judge,
        cache: str | os.PathLike[str] | None = None,
        *,
        concurrency: int | None = None,
        requests_per_minute: float | None = None,
        max_requests: int | None = None,
        max_tokens: int | None = None,
        retries: int = 5,
        base_delay: float = 1.0,
        max_delay: float = 60.0,
        seed: int = 0,
    ) -> None:
        """Check the limits; nothing is asked yet."""
        limits = {
            "concurrency": concurrency, "requests_per_minute": requests_per_minute, "max_requests": max_requests,
            "max_tokens": max_tokens,
        }  # fmt: skip
        for name, value in limits.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}; leave it out for no limit.")
        if retries < 0 or not 0 <= base_delay <= max_delay:
            raise ValueError(
                f"Repeats need retries >= 0 and 0 <= base_delay <= max_delay, got {retries}, {base_delay}, {max_delay}."
            )
        self.judge = judge
        self.cache = ReplyCache(cache)
        self.concurrency = concurrency or judge.concurrency
        self.requests_per_minute = requests_per_minute
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.retries, self.base_delay, self.max_delay = retries, base_delay, max_delay
        self.counts = Counts()
        self._random = random.Random(seed)
        self._next_start = 0.0
        self._told = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock: a reward with a judge can be copied and sent to other processes."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a lock of one's own."""
        self.__dict__.update(state, _lock=threading.Lock())

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer ``questions`` in order, blocking; may be called where an event loop runs already.

        Returns:
            One reply per question; one that failed in spite of all repeats has an error and is counted.

        Raises:
            BudgetError: if a limit is reached first; what was answered stays in the cache, and is counted.
            JudgeError: if the judge cannot be reached or used at all, or every question sent failed.
        """
        with self._lock:  # one round at a time: limits and connections belong to the runner
            try:
                return _wait_for(self._ask(questions))
            finally:
                self._tell()

    def choose(self, questions: Sequence[Question]) -> Tensor:
        """Probabilities of the choices ``(N, K)`` float32, rows summing to one.

        Where the judge gives text only, the choice that it wrote has probability 1. A question that failed, or whose
        text is no choice, is a row of NaN, and counted.

        Raises:
            As :meth:`ask`; ValueError if the questions have different numbers of choices.
        """
        sizes = {len(question.choices) for question in questions}
        if len(sizes) > 1 or sizes & {0}:
            raise ValueError(f"Questions must have one number of choices, at least 2, got {sorted(sizes)}.")
        rows = [self._chosen(q, r) for q, r in zip(questions, self.ask(questions), strict=True)]
        self._tell()
        return torch.tensor(rows, dtype=torch.float32).reshape(len(questions), *sizes)

    def write(self, questions: Sequence[Question], parse: Callable[[str, Question], T | None]) -> list[T | None]:
        """What ``parse`` reads from each free text; None, counted, where it failed or has another form.

        Raises:
            As :meth:`ask`.
        """
        found: list[T | None] = []
        for question, reply in zip(questions, self.ask(questions), strict=True):
            value = None if reply.error else parse(reply.text, question)
            self.counts.unparsable += value is None and reply.error is None
            found.append(value)
        self._tell()
        return found

    def _tell(self) -> None:
        """Log what went wrong, each time it has doubled."""
        lost = self.counts.failed + self.counts.unparsable
        if lost >= 2 * self._told and lost:
            self._told = lost
            LOG.warning("Judge without usable answers: %s", self.counts)

    def _chosen(self, question: Question, reply: Reply) -> list[float]:
        nothing = [float("nan")] * len(question.choices)
        if reply.error is not None:
            return nothing
        if reply.probabilities is not None:
            return list(reply.probabilities)
        choice = parse_choice(reply.text, question.choices)
        if choice is None:
            self.counts.unparsable += 1
            return nothing
        return [float(i == choice) for i in range(len(question.choices))]

    async def _ask(self, questions: Sequence[Question]) -> list[Reply]:
        identity = self.judge.identity()
        keys = [hashlib.sha256(f"{identity}|{q.digest()}".encode()).hexdigest() for q in questions]
        known = {key: reply for key in dict.fromkeys(keys) if (reply := self.cache.get(key)) is not None}
        new = {key: q for key, q in zip(keys, questions, strict=True) if key not in known}
        self.counts.asked += len(questions)
        self.counts.cached += len(questions) - len(new)
        if new:
            async with self.judge:
                known |= await self._send(new)
        return [known[key] for key in keys]

    async def _send(self, new: dict[str, Question]) -> dict[str, Reply]:
        keys = list(new)
        batches = [keys[i : i + self.judge.batch] for i in range(0, len(keys), self.judge.batch)]
        waiting = iter(batches)
        replies: dict[str, Reply] = {}
        stop: list[JudgeError] = []

        async def work() -> None:
            for batch in waiting:
                try:
                    replies.update(await self._send_batch({key: new[key] for key in batch}, stop))
                except JudgeError as error:
                    stop.append(error)
                if stop:  # the others finish what is under way, so that nothing paid for is lost
                    return

        await asyncio.gather(*(work() for _ in range(min(self.concurrency, len(batches)))))
        if stop:
            raise stop[0]
        failed = [reply.error for reply in replies.values() if reply.error is not None]
        if failed and len(failed) == len(replies):
            raise JudgeError(
                f"The judge answered none of {len(replies)} questions; the last one failed because: "
                f"{failed[-1].message}"
            )
        return replies

    async def _send_batch(self, batch: dict[str, Question], stop: list[JudgeError]) -> dict[str, Reply]:
        done: dict[str, Reply] = {}
        left, attempt = batch, 0
        while left and not (stop and left is batch):
            sent = dict(islice(left.items(), await self._take_turn(len(left))))
            replies = dict(zip(sent, await self.judge.answer(list(sent.values())), strict=True))
            self._record(replies)
            again = {key: reply for key, reply in replies.items() if reply.error and reply.error.kind != "refused"}
            adapted = all(reply.error and reply.error.kind == "adapted" for reply in again.values())
            if attempt == self.retries and not adapted:
                self._check_reached(again)
                again = {}
            done |= {key: reply for key, reply in replies.items() if key not in again}
            left = {key: question for key, question in left.items() if key not in done}
            if again:
                self.counts.retried += len(again)
            if again and not adapted:
                await asyncio.sleep(self._delay(attempt, [reply.error for reply in again.values() if reply.error]))
                attempt += 1
        self.counts.failed += sum(reply.error is not None for reply in done.values())
        return done

    def _record(self, replies: dict[str, Reply]) -> None:
        for key, reply in replies.items():
            self.counts.tokens += reply.tokens
            if reply.error is None:
                self.cache.put(key, reply)

    def _check_reached(self, replies: dict[str, Reply]) -> None:
        for reply in replies.values():
            if reply.error is not None and reply.error.kind == "connection":
                raise JudgeError(f"{reply.error.message} Tried {self.retries + 1} times; answers so far are kept.")

    def _delay(self, attempt: int, faults: Sequence[Fault]) -> float:
        backoff = min(self.max_delay, self.base_delay * 2.0**attempt) * self._random.uniform(0.5, 1.0)
        return max(backoff, *(fault.wait for fault in faults))

    async def _take_turn(self, wanted: int) -> int:
        """Wait for the rate limit and count the requests that follow: ``wanted`` of them, or what the budget has left.

        Raises:
            BudgetError: if it has none.
        """
        granted = wanted if self.max_requests is None else min(wanted, self.max_requests - self.counts.requests)
        if granted <= 0:
            raise BudgetError(self._spent(f"max_requests={self.max_requests}"))
        if self.max_tokens is not None and self.counts.tokens >= self.max_tokens:
            raise BudgetError(self._spent(f"max_tokens={self.max_tokens}"))
        self.counts.requests += granted  # before the pause, or others would take the same place in the budget
        if self.requests_per_minute is not None:
            now = asyncio.get_running_loop().time()
            start = max(now, self._next_start)
            self._next_start = start + granted * 60 / self.requests_per_minute
            await asyncio.sleep(start - now)
        return granted

    def _spent(self, limit: str) -> str:
        return (
            f"The judge's budget {limit} is spent ({self.counts}); answers so far are kept, raise the limit to go on "
            "where this stopped."
        )


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as error:  # it belongs to the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
