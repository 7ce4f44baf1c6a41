/*
 * page.h - the web page's files, linked into the gateway: no build step, nothing to install beside it.
 */
#ifndef GATEWAY_PAGE_H
#define GATEWAY_PAGE_H

#include <stddef.h>

typedef struct {
    const char *path; /* "/", "/page/page.js" */
    const char *type; /* Content-Type */
    const unsigned char *data;
    size_t size;
} page_file;

/* NULL when the page has no such file. */
const page_file *page_find(const char *path);

/* The page loads nothing from elsewhere and runs no inline script. */
#define PAGE_CONTENT_SECURITY_POLICY                                                               \
    "default-src 'self'; img-src 'self' data: blob:;"                                              \
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

#endif
