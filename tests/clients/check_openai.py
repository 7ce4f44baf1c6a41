"""The official `openai` client against a running gateway: streamed and not, picture and text, conversations, files,
errors.

Usage: check_openai.py URL PICTURE     (URL like http://127.0.0.1:8080)
Prints what it saw; exits non-zero when an expectation does not hold.
"""
import base64
import hashlib
import sys

import openai


def picture(path):
    data = base64.b64encode(open(path, "rb").read()).decode()
    return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + data}}


def ask_turn(client, stream, conversation, **ask):
    """One turn of a conversation: its text and the conversation's id."""
    reply = client.chat.completions.create(stream=stream, extra_body={"conversation": conversation}, **ask)
    if not stream:
        return reply.choices[0].message.content, reply.conversation
    text, ids = "", []
    for chunk in reply:
        for choice in chunk.choices:
            text += choice.delta.content or ""
        ids.append(getattr(chunk, "conversation", None))
    assert ids[-1] and not any(ids[:-1]), "the conversation's id is not in the last chunk alone"
    return text, ids[-1]


def check_conversation(client, model, path, stream):
    """Three turns, each sent alone; the same as the whole history sent by hand."""
    turns = [
        [picture(path), {"type": "text", "text": "What is in the picture?"}],
        "Are you sure?",
        [{"type": "text", "text": "Say it once more."}],
    ]
    conversation, history = "new", []
    for content in turns:
        history.append({"role": "user", "content": content})
        more = dict(model=model, max_tokens=12, temperature=0) if conversation == "new" else dict(model=model)
        text, conversation = ask_turn(client, stream, conversation, messages=history[-1:], **more)
        whole = client.chat.completions.create(model=model, max_tokens=12, temperature=0, messages=history)
        assert text == whole.choices[0].message.content, "the turn's answer is not the whole history's"
        history.append({"role": "assistant", "content": text})
    kept = client.get(f"/conversations/{conversation}", cast_to=object)
    assert [t["role"] for t in kept["turns"]] == ["user", "assistant"] * 3
    print("conversation of three turns,", "streamed" if stream else "whole", kept["title"])
    fork = client.post(f"/conversations/{conversation}/fork", body={"turns": 2}, cast_to=object)
    assert fork["turn_count"] == 2
    for gone in (conversation, fork["id"]):
        assert client.delete(f"/conversations/{gone}", cast_to=object)["deleted"]
    try:
        ask_turn(client, stream, conversation, messages=history[:1], model=model)
    except openai.NotFoundError as e:
        assert e.body["code"] == "conversation_not_found"
    else:
        raise AssertionError("a deleted conversation goes on")


def check_files(client, model, path):
    file = client.files.create(file=open(path, "rb"), purpose="vision")
    assert file.id == hashlib.sha256(open(path, "rb").read()).hexdigest()
    assert client.files.retrieve(file.id).bytes == file.bytes
    assert file.id in [f.id for f in client.files.list()]
    assert client.files.content(file.id).read() == open(path, "rb").read()
    words = {"type": "text", "text": "What is it?"}
    by_id = {"type": "image_file", "image_file": {"file_id": file.id}}
    answers = [
        client.chat.completions.create(model=model, max_tokens=8, messages=[{"role": "user", "content": [part, words]}])
        for part in (by_id, picture(path))
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert client.files.delete(file.id).deleted
    print("file:", file)


def main(url, path):
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    models = [m.id for m in client.models.list()]
    print("models:", models)
    assert models, "no model is listed"
    ask = dict(
        model=models[0],
        messages=[{"role": "user", "content": [picture(path), {"type": "text", "text": "Describe the picture."}]}],
        max_tokens=24,
        temperature=0,
    )
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    print("answer:", repr(text))
    print("usage:", whole.usage)
    assert whole.usage.completion_tokens > 0 and whole.usage.prompt_tokens > 0
    assert whole.choices[0].finish_reason in ("stop", "length")

    pieces, usage, finish = [], None, None
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ask):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.delta.content:
                pieces.append(choice.delta.content)
            finish = choice.finish_reason or finish
    print("streamed in", len(pieces), "pieces, finish", finish)
    assert "".join(pieces) == text, "the streamed answer is another one"
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert finish == whole.choices[0].finish_reason

    words = client.chat.completions.create(
        model=models[0], messages=[{"role": "user", "content": "Hello"}], max_tokens=4, temperature=0,
        logprobs=True, top_logprobs=3)
    assert len(words.choices[0].logprobs.content) == words.usage.completion_tokens
    assert all(len(t.top_logprobs) == 3 for t in words.choices[0].logprobs.content)
    assert words.usage.prompt_tokens < whole.usage.prompt_tokens, "visual tokens are not counted"

    check_conversation(client, models[0], path, stream=False)
    check_conversation(client, models[0], path, stream=True)
    check_files(client, models[0], path)

    for wrong, kind in (
        (dict(model="no-such-model"), openai.NotFoundError),
        (dict(extra_body={"no_such_field": 1}), openai.BadRequestError),
        (dict(temperature=-1), openai.BadRequestError),
        (dict(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]),
         openai.BadRequestError),
    ):
        try:
            client.chat.completions.create(**{**ask, **wrong})
        except kind as e:
            print("refused:", e.body)
            assert e.body["message"] and e.body["code"]
        else:
            raise AssertionError(f"{wrong} was not refused")
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
