/*
 * chat_codec.h - a chat request as the wire carries it: DecodeTask and Sampling <-> ty_chat_request.
 *
 * Pictures are not in the DecodeTask: an image part says only that the next of the task's
 * visual_tokens tensors stands here.
 */
#ifndef TY_WIRE_CHAT_CODEC_H
#define TY_WIRE_CHAT_CODEC_H

#include "common/chat/request.h"
#include "tyto.pb-c.h"

/* A new DecodeTask of what the decoder needs (turns or prompt, template, sampling); picture URLs, model
 * and streaming stay behind.  The seed goes as it is: the gateway has drawn one when has_seed is false.
 * Free it with tyto__decode_task__free_unpacked, or hand it to a Task.  Fails: TY_EINVAL (a negative
 * number that must not be), TY_ENOMEM. */
ty_status ty_chat_codec_encode(const ty_chat_request *r, Tyto__DecodeTask **out, ty_err *err);

/* Fills *out (ty_chat_request_clear it) after checking every value's range, for the wire is not trusted:
 * TY_EINVAL names the field, TY_ELIMIT, TY_ENOMEM.  Without a sampling message the defaults hold;
 * has_seed is true with one.  On failure *out is cleared. */
ty_status ty_chat_codec_decode(const Tyto__DecodeTask *t, ty_chat_request *out, ty_err *err);

/* What is sent again after a loss goes on behind the tokens of this chunk: those that are not yet among the
 * task's forced ones are added.  TY_EFORMAT: there are tokens between them; TY_ENOMEM. */
ty_status ty_chat_codec_force(Tyto__DecodeTask *t, const Tyto__Chunk *c, ty_err *err);

ty_status ty_chat_codec_encode_sampling(const ty_sampling *s, Tyto__Sampling **out, ty_err *err);
ty_status ty_chat_codec_decode_sampling(const Tyto__Sampling *s, ty_sampling *out, ty_err *err);

#endif
