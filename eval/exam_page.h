/* exam_page.h - an exam's marks as one HTML page: a table by ability and language, confusions, examples with their pictures. */
#ifndef TY_EXAM_PAGE_H
#define TY_EXAM_PAGE_H

#include "eval/exam.h"

/* title: above the page (which model, when).  sum: exam_sum's.  Fails: TY_EIO, TY_ENOMEM. */
ty_status exam_page_write(const exam *e, const json_t *sum, const char *title, const char *path,
                          ty_err *err);

#endif
