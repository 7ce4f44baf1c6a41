/*
 * picture.h - pictures in Redis by the SHA-256 of their bytes: uploaded ones (files, with a name) and those that
 * conversations show.  The same bytes are there once, whoever brought them; each is seen only by who uploaded
 * it or shows it in a conversation.
 *
 * An uploaded file lives until its ttl passes without use, or until it is deleted and no conversation shows it.
 */
#ifndef TY_STORE_PICTURE_H
#define TY_STORE_PICTURE_H

#include "common/store/script.h"

#include <stdbool.h>

/* 64 lower-case hex digits. */
bool ty_picture_id_valid(const char *sha256);

typedef struct {
    const char *sha256, *name, *purpose;
    const void *bytes;
    size_t size;
} ty_picture_file;

/* Uploads; the same file again is kept anew.  TY_ELIMIT: over the owner's bytes.  Reply: ty_picture_read_file. */
ty_status ty_picture_put(ty_store_command *c, const char *owner, const ty_picture_file *f,
                         const ty_store_policy *p, ty_err *err);
/* Of an uploaded file.  TY_ENOTFOUND.  Reply: ty_picture_read_file. */
ty_status ty_picture_info(ty_store_command *c, const char *owner, const char *sha256,
                          const ty_store_policy *p, ty_err *err);
/* The owner's files, last used first, `count` behind `after` ("": from the first; TY_ENOTFOUND: no such). */
ty_status ty_picture_list(ty_store_command *c, const char *owner, const char *after, int count,
                          const ty_store_policy *p, ty_err *err);
/* Takes an uploaded file back; conversations keep theirs.  TY_ENOTFOUND.  Reply: ty_store_read_done. */
ty_status ty_picture_delete(ty_store_command *c, const char *owner, const char *sha256,
                            ty_err *err);
/* The bytes, of what the owner uploaded or shows in a conversation: TY_ENOTFOUND else.  Reply: ty_picture_read. */
ty_status ty_picture_get(ty_store_command *c, const char *owner, const char *sha256,
                         const ty_store_policy *p, ty_err *err);

/* {"id","name","purpose","created" (unix ms),"bytes"}; of list an array.  *out is a new reference. */
ty_status ty_picture_read_file(const redisReply *r, json_t **out, ty_err *err);
ty_status ty_picture_read_list(const redisReply *r, json_t **out, ty_err *err);
/* Borrowed from the reply. */
ty_status ty_picture_read(const redisReply *r, const char **bytes, size_t *size, ty_err *err);

#endif
