/*
 * err.h - status codes and the one error record that travels with a failure.
 *
 * Every function that can fail for a reason outside its caller's control returns ty_status and
 * takes a `ty_err *` as its last argument (NULL is allowed: the code alone is returned).  The code
 * is for the machine: it crosses the wire in Error.status and chooses the HTTP status.  The text is
 * for the person: what failed, on what, found against expected, and a remedy if there is one.
 *
 *     return ty_fail(err, TY_EFORMAT, "%s: tensor %s is [%d,%d], want [%d,%d]", ...);
 */
#ifndef TY_BASE_ERR_H
#define TY_BASE_ERR_H

/* XX(name, sentence, is it worth sending the same request again?) */
#define TY_STATUS_MAP(XX)                                                                          \
    XX(OK, "ok", 0)                                                                                \
    XX(EINVAL, "an argument or a field is malformed", 0)                                           \
    XX(EUNSUPPORTED, "valid, but not supported here", 0)                                           \
    XX(ENOTFOUND, "no such thing", 0)                                                              \
    XX(EEXIST, "it is there already", 0)                                                           \
    XX(ENOMEM, "out of memory", 1)                                                                 \
    XX(EIO, "a file or a socket failed", 1)                                                        \
    XX(EFORMAT, "a file or a message is not in the format it claims", 0)                           \
    XX(ESHAPE, "a tensor has the wrong shape or type", 0)                                          \
    XX(ELIMIT, "over a limit", 0)                                                                  \
    XX(EIMAGE, "a picture cannot be decoded", 0)                                                   \
    XX(ECONTEXT, "the prompt is longer than the context", 0)                                       \
    XX(ECHECKSUM, "bytes changed on the way", 1)                                                   \
    XX(EVERSION, "the peer speaks another version of the protocol", 0)                             \
    XX(ECONTRACT, "two stages do not fit together", 0)                                             \
    XX(EOVERLOAD, "too much is waiting", 1)                                                        \
    XX(EUNAVAILABLE, "no worker serves this stage", 1)                                             \
    XX(ETIMEOUT, "the deadline passed", 1)                                                         \
    XX(ECANCELED, "the request was cancelled", 0)                                                  \
    XX(EAUTH, "not allowed", 0)                                                                    \
    XX(EINTERNAL, "a bug in Tyto", 1)

typedef enum {
#define XX(name, text, again) TY_##name,
    TY_STATUS_MAP(XX)
#undef XX
        TY_STATUS_COUNT
} ty_status;

typedef struct {
    ty_status code;
    char text[512];
} ty_err;

/* "EFORMAT"; "?" for a number that is no status. */
const char *ty_status_name(ty_status s);
/* The sentence beside it. */
const char *ty_status_text(ty_status s);
/* Is a retry of the same request sensible?  Transient causes only. */
int ty_status_transient(ty_status s);
/* A status from its name, as it comes over the wire; TY_EINTERNAL for an unknown one. */
ty_status ty_status_from_name(const char *name);

/* Fills err (may be NULL) and returns code. */
__attribute__((format(printf, 3, 4))) ty_status ty_fail(ty_err *err, ty_status code,
                                                        const char *fmt, ...);
#ifdef __clang_analyzer__ /* it cannot see into err.c: that the code comes back */
#define ty_fail(err, code, ...) ((void)ty_fail(err, code, __VA_ARGS__), (code))
#endif
/* Puts "<context>: " before err's text: for callers that know which file or request it was. */
__attribute__((format(printf, 2, 3))) void ty_err_context(ty_err *err, const char *fmt, ...);

#endif
