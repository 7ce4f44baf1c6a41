/* status.h - reading what a running `tyto up` says of itself; shared by `status` and `down`. */
#ifndef TY_STATUS_H
#define TY_STATUS_H

#include "common/base/err.h"

#include <jansson.h>
#include <sys/types.h>

/* STATE/status.json of a live supervisor, and its pid.  json_decref *out.  Fails: TY_ENOTFOUND (nothing
 * runs there, whatever files a killed one left), TY_EFORMAT, TY_EIO. */
ty_status status_read(const char *dir, json_t **out, pid_t *pid, ty_err *err);

#endif
