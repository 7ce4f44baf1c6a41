"""100 streams while processes are killed: nothing lost, nothing said twice, nothing left hanging.

usage: chaos.py BIN [--streams 100] [--at-once 16] [--tokens 64] [--every 1.5] [--victims decoder,broker,redis.state,redis.cache,gateway]

Brings up a model of random weights with two decoders, two brokers and two gateways, asks all questions undisturbed, then asks them
again for each kind of victim while one of them is killed with SIGKILL every few seconds.  Greedy, sampled and beam-search questions,
some with a picture, some in conversations.  What a client may see: the undisturbed text; or an error that says what to do, after
which it asks again, as the openai client does.  What came before an error must be the beginning of the undisturbed text.
"""
import argparse
import asyncio
import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import httpx

DEADLINE_S = 120


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("bin")
    p.add_argument("--streams", type=int, default=100)
    p.add_argument("--llm", default="110m", help="size of the decoder, as tyto synth names it")
    p.add_argument("--at-once", type=int, default=16)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--every", type=float, default=5)
    p.add_argument("--victims", default="decoder,broker,redis.state,redis.cache,gateway")
    p.add_argument("--port", type=int, default=18480)
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


class Service:
    def __init__(self, args):
        self.tyto = os.path.join(args.bin, "tyto")
        self.root = tempfile.mkdtemp(prefix="tyto-chaos-")
        self.state = os.path.join(self.root, "state")
        self.model = "chaos-model"
        pipeline = os.path.join(self.root, self.model)
        self.run("synth", pipeline, "--llm", args.llm, "--vit", "tiny", "--type", "q8_0")
        self.run("up", "--pipeline", pipeline, "--state", self.state, "--decoder", "2", "--broker", "2", "--gateway", "2",
                 "--listen", f"127.0.0.1:{args.port}", "--detach")
        self.url = f"http://127.0.0.1:{args.port}"

    def run(self, *args):
        subprocess.run([self.tyto, *args], check=True, stdout=subprocess.DEVNULL)

    def processes(self):
        out = subprocess.run([self.tyto, "status", "--json", "--state", self.state], check=True, capture_output=True)
        return json.loads(out.stdout)["processes"]

    def kill_one(self, victim, dice):
        pids = [p["pid"] for p in self.processes()
                if p["pid"] > 0 and (p["stage"] == victim or p.get("name", "").startswith(victim) or victim.startswith(p["stage"] + "."))]
        if pids:
            try:
                os.kill(dice.choice(pids), signal.SIGKILL)
                return True
            except ProcessLookupError:
                pass
        return False

    def close(self):
        subprocess.run([self.tyto, "down", "--state", self.state], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.root, ignore_errors=True)


def question(i, args, model, picture):
    """The request of stream i; every third has a picture, kinds of decoding take turns."""
    content = [{"type": "text", "text": f"Question {i}: what would you say about number {i * 7919 % 1000}?"}]
    if i % 3 == 0:
        content.insert(0, {"type": "image_url", "image_url": {"url": picture}})
    body = {"model": model, "stream": True, "max_tokens": args.tokens, "ignore_eos": True, "seed": i,
            "messages": [{"role": "user", "content": content}]}
    if i % 5 == 1:
        body.update(temperature=0.8, top_p=0.9)
    if i % 5 == 2:
        body.update(temperature=1.2, top_k=20, repetition_penalty=1.1)
    if i % 10 == 4:
        body.update(num_beams=3, no_repeat_ngram_size=2)
    if i % 4 == 1:
        body["conversation"] = "new"
    return body


class Outcome:
    def __init__(self):
        self.text, self.errors, self.tries, self.conversation, self.attempt, self.seconds = "", [], 0, None, 1, 0.0


async def once(client, body, out):
    """One try.  Returns None when all came, else the error."""
    out.text = ""
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                error = json.loads(await reply.aread())["error"]
                return f"{reply.status_code} {error['code']}"
            async for line in reply.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    return None
                event = json.loads(line[6:])
                if "error" in event:
                    return f"stream {event['error']['code']}"
                for choice in event.get("choices", []):
                    out.text += choice["delta"].get("content") or ""
                out.conversation = event.get("conversation", out.conversation)
                stages = event.get("timings", {}).get("stages", [])
                out.attempt = max([out.attempt] + [s["attempt"] for s in stages])
        return "broken off"
    except httpx.HTTPError as e:
        return f"connection {type(e).__name__}"


async def ask(client, body, gate, wanted):
    out = Outcome()
    async with gate:
        since = time.monotonic()
        while out.tries < 60 and time.monotonic() - since < DEADLINE_S:
            out.tries += 1
            error = await once(client, body, out)
            if error is None:
                break
            out.errors.append(error)
            if wanted is not None and not wanted.startswith(out.text):
                out.errors.append(f"WRONG BEGINNING: {out.text!r} of {wanted!r}")
                break
            await asyncio.sleep(min(0.5 * 2 ** min(out.tries, 3), 4) * random.uniform(0.75, 1))
        else:
            out.errors.append("GAVE UP")
        out.seconds = time.monotonic() - since
    return out


async def killer(service, victim, every, dice, kills, done):
    while not done.is_set():
        try:
            await asyncio.wait_for(done.wait(), every)
        except asyncio.TimeoutError:
            kills[0] += await asyncio.to_thread(service.kill_one, victim, dice)


async def all_streams(service, bodies, args, wanted=None, victim=None):
    gate, done, kills = asyncio.Semaphore(args.at_once), asyncio.Event(), [0]
    limits = httpx.Limits(max_connections=args.streams, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=service.url, timeout=DEADLINE_S + 30, limits=limits) as client:
        hunt = asyncio.create_task(killer(service, victim, args.every, random.Random(args.seed), kills, done)) if victim else None
        outs = await asyncio.gather(*(ask(client, b, gate, wanted[i] if wanted else None) for i, b in enumerate(bodies)))
        done.set()
        if hunt:
            await hunt
    return outs, kills[0]


async def kept(service, outs, wanted):
    """Are the acknowledged conversations there, with their answers?"""
    bad, n = [], 0
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        for i, out in enumerate(outs):
            if not out.conversation:
                continue
            n += 1
            for _ in range(40):
                try:
                    reply = await client.get(f"/v1/conversations/{out.conversation}")
                    if reply.status_code != 503:
                        break
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.5)
            turns = reply.json().get("turns", []) if reply.status_code == 200 else []
            if [t["role"] for t in turns] != ["user", "assistant"] or turns[1]["content"] != wanted[i]:
                bad.append((i, reply.status_code))
    return n, bad


async def main():
    args = arguments()
    with open("tests/golden/images/photo_47.jpg", "rb") as f:
        picture = "data:image/jpeg;base64," + base64.b64encode(f.read()).decode()
    service = Service(args)
    failed = False
    try:
        bodies = [question(i, args, service.model, picture) for i in range(args.streams)]
        calm, _ = await all_streams(service, bodies, args)
        if any(o.errors for o in calm):
            raise SystemExit(f"FAILED undisturbed: {[o.errors for o in calm if o.errors][:3]}")
        wanted = [o.text for o in calm]
        print(f"undisturbed: {len(calm)} streams, slowest {max(o.seconds for o in calm):.1f} s")
        for victim in args.victims.split(","):
            outs, kills = await all_streams(service, bodies, args, wanted, victim)
            differ = [i for i, o in enumerate(outs) if o.text != wanted[i]]
            unfinished = [o.errors[-1] for o in outs if o.errors and o.errors[-1].isupper()]
            errors = {}
            for o in outs:
                for e in o.errors:
                    errors[e] = errors.get(e, 0) + 1
            n, lost = await kept(service, outs, wanted)
            ok = not differ and not unfinished and not lost and kills > 0
            failed |= not ok
            print(f"{'ok' if ok else 'FAILED'}: {victim} killed {kills} times: {len(outs) - len(differ)} of {len(outs)} equal, "
                  f"{sum(o.attempt > 1 for o in outs)} with attempt > 1, slowest {max(o.seconds for o in outs):.1f} s, "
                  f"errors seen by clients that asked again: {errors or 'none'}, {n - len(lost)} of {n} conversations intact")
            for i in differ[:3]:
                print(f"  stream {i}: {outs[i].errors} {outs[i].text!r} wanted {wanted[i]!r}")
            if lost:
                print(f"  conversations: {lost[:5]}")
    finally:
        service.close()
    sys.exit(1 if failed else 0)


asyncio.run(main())
