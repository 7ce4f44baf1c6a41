/* endpoints.c - see endpoints.h. */
#include "common/wire/endpoints.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1])) *--end = '\0';
    return s;
}

static ty_status add(ty_endpoints *e, const char *item, const char *text, ty_err *err) {
    if (!*item) return ty_fail(err, TY_EINVAL, "\"%s\": an endpoint in it is empty", text);
    for (int i = 0; i < e->n; i++)
        if (strcmp(e->item[i], item) == 0)
            return ty_fail(err, TY_EINVAL, "%s stands twice among the brokers; leave one out",
                           item);
    if (e->n == TY_ENDPOINTS_MAX)
        return ty_fail(err, TY_ELIMIT, "\"%s\": at most %d brokers", text, TY_ENDPOINTS_MAX);
    e->item[e->n++] = item;
    return TY_OK;
}

ty_status ty_endpoints_parse(ty_endpoints *e, const char *text, ty_err *err) {
    *e = (ty_endpoints){0};
    if (!text || !*text)
        return ty_fail(err, TY_EINVAL, "no broker: give its endpoint, as ipc:///path");
    e->text = strdup(text);
    if (!e->text) return ty_fail(err, TY_ENOMEM, "no memory for the brokers' endpoints");
    ty_status st = TY_OK;
    for (char *rest = e->text, *p; st == TY_OK && (p = strsep(&rest, ","));)
        st = add(e, trim(p), text, err);
    return st;
}

void ty_endpoints_clear(ty_endpoints *e) {
    free(e->text);
    *e = (ty_endpoints){0};
}
