"""The official `openai` client against a running gateway: streamed and not, picture and text, errors.

Usage: check_openai.py URL PICTURE     (URL like http://127.0.0.1:8080)
Prints what it saw; exits non-zero when an expectation does not hold.
"""
import base64
import sys

import openai


def picture(path):
    data = base64.b64encode(open(path, "rb").read()).decode()
    return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + data}}


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
