/* err.c - see err.h. */
#include "common/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    const char *text;
    int transient;
} statuses[TY_STATUS_COUNT] = {
#define XX(name, text, again) {#name, text, again},
    TY_STATUS_MAP(XX)
#undef XX
};

static int known(ty_status s) {
    return (int)s >= 0 && s < TY_STATUS_COUNT;
}

const char *ty_status_name(ty_status s) {
    return known(s) ? statuses[s].name : "?";
}

const char *ty_status_text(ty_status s) {
    return known(s) ? statuses[s].text : "unknown status";
}

int ty_status_transient(ty_status s) {
    return known(s) ? statuses[s].transient : 0;
}

ty_status ty_status_from_name(const char *name) {
    for (int i = 0; i < TY_STATUS_COUNT; i++)
        if (strcmp(name, statuses[i].name) == 0) return (ty_status)i;
    return TY_EINTERNAL;
}

ty_status(ty_fail)(ty_err *err, ty_status code, const char *fmt, ...) {
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
    }
    return code;
}

void ty_err_context(ty_err *err, const char *fmt, ...) {
    if (!err) return;
    char was[sizeof(err->text)];
    memcpy(was, err->text, sizeof(was));
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(err->text)) return;
    snprintf(err->text + n, sizeof(err->text) - (size_t)n, ": %.*s",
             (int)(sizeof(err->text) - (size_t)n - 3), was);
}
