/* page.c - see page.h.  The assembler includes the files as they stand in services/gateway/page/. */
#include "services/gateway/page.h"

#include <string.h>

/* Two symbols around a file's bytes.  Paths are relative to the repository, where the compiler runs. */
#define FILE_BYTES(name, file)                                                                     \
    __asm__(".section .rodata\n"                                                                   \
            ".global page_" #name "_begin, page_" #name "_end\n"                                   \
            "page_" #name "_begin: .incbin \"services/gateway/page/" file "\"\n"                   \
            "page_" #name "_end: .byte 0\n"                                                        \
            ".previous\n");                                                                        \
    extern const unsigned char page_##name##_begin[], page_##name##_end[]

FILE_BYTES(html, "index.html");
FILE_BYTES(css, "page.css");
FILE_BYTES(js, "page.js");
FILE_BYTES(owl, "owl.svg");

const page_file *page_find(const char *path) {
    static const struct {
        const char *path, *type;
        const unsigned char *begin, *end;
    } files[] = {
        {"/", "text/html; charset=utf-8", page_html_begin, page_html_end},
        {"/page/page.css", "text/css; charset=utf-8", page_css_begin, page_css_end},
        {"/page/page.js", "text/javascript; charset=utf-8", page_js_begin, page_js_end},
        {"/page/owl.svg", "image/svg+xml", page_owl_begin, page_owl_end},
        {"/favicon.ico", "image/svg+xml", page_owl_begin, page_owl_end},
    };
    static page_file found[sizeof(files) / sizeof(files[0])];
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        if (strcmp(path, files[i].path) != 0) continue;
        found[i] = (page_file){files[i].path, files[i].type, files[i].begin,
                               (size_t)(files[i].end - files[i].begin)};
        return &found[i];
    }
    return NULL;
}
