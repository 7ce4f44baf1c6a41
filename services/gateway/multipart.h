/*
 * multipart.h - a multipart/form-data body (RFC 7578) as its fields.  Nothing is copied.
 */
#ifndef GATEWAY_MULTIPART_H
#define GATEWAY_MULTIPART_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum { MULTIPART_FIELDS = 16 };

typedef struct {
    char name[64], filename[256]; /* filename "": none was given */
    const char *data;             /* into the body */
    size_t size;
} multipart_field;

typedef struct {
    multipart_field field[MULTIPART_FIELDS];
    int n;
} multipart;

/* Is it "multipart/form-data"?  NULL is not. */
bool multipart_is(const char *content_type);
/* Fails: TY_EINVAL (no boundary, a damaged body, a field without a name or with one too long, more than MULTIPART_FIELDS). */
ty_status multipart_parse(multipart *m, const char *content_type, const char *body, size_t size,
                          ty_err *err);
/* NULL: there is none. */
const multipart_field *multipart_find(const multipart *m, const char *name);

#endif
