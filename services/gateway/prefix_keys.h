/*
 * prefix_keys.h - short names of a prompt's beginnings, by which a broker finds the decoder that has computed
 * one of them before.
 *
 * A beginning ends behind a picture or a turn that is not the system's: there a later request with the same
 * beginning may go on.  Its name is a hash of the pipeline's models and adapter, the template and all that stands
 * before, pictures by their SHA-256; so every gateway gives it the same one.  Names only choose a worker:
 * what is reused there is decided by the rows themselves (services/decoder/prefix.h).
 */
#ifndef GATEWAY_PREFIX_KEYS_H
#define GATEWAY_PREFIX_KEYS_H

#include "common/model/pipeline.h"
#include "tyto.pb-c.h"

enum { PREFIX_KEYS_MAX = 16 };

/* Fills d->prefix_keys, longest first: the PREFIX_KEYS_MAX - 1 longest and the shortest.  sha256[i]: hex digest
 * of picture i, n_pictures of them.  Fails: TY_ENOMEM. */
ty_status prefix_keys_set(Tyto__DecodeTask *d, const ty_pipeline *p, const char *const *sha256,
                          int n_pictures, ty_err *err);

#endif
