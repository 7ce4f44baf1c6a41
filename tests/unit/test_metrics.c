/* metrics.h: the text that Prometheus reads. */
#include "tests/support/ty_test.h"

#include "common/watch/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void expect_text(const ty_metrics *m, const char *want) {
    ty_buf b = ty_buf_make(1 << 20);
    assert_int_equal(ty_metrics_write(m, &b), TY_OK);
    assert_string_equal(b.data ? b.data : "", want);
    ty_buf_clear(&b);
}

static void counter_adds_per_label_values(void **state) {
    (void)state;
    ty_metrics *m = ty_metrics_create();
    ty_metric *f = ty_metrics_counter(m, "r_total", "Requests.", "code,path");
    ty_metric_add(f, 1, TY_LABELS("200", "/a"));
    ty_metric_add(f, 2, TY_LABELS("404", "/a"));
    ty_metric_add(f, 1.5, TY_LABELS("200", "/a"));
    ty_metric_add(f, -1, TY_LABELS("200", "/a")); /* a counter never falls */
    expect_text(m, "# HELP r_total Requests.\n# TYPE r_total counter\n"
                   "r_total{code=\"200\",path=\"/a\"} 2.5\nr_total{code=\"404\",path=\"/a\"} 2\n");
    ty_metrics_destroy(&m);
    assert_null(m);
}

static void gauge_sets_and_forgets_on_reset(void **state) {
    (void)state;
    ty_metrics *m = ty_metrics_create();
    ty_metric *f = ty_metrics_gauge(m, "g", "G", NULL);
    ty_metric_set(f, 3, NULL);
    ty_metric_add(f, -1, NULL);
    expect_text(m, "# HELP g G\n# TYPE g gauge\ng 2\n");
    ty_metric_reset(f);
    expect_text(m, "# HELP g G\n# TYPE g gauge\n");
    ty_metrics_destroy(&m);
}

static void histogram_accumulates_and_counts_the_bound_itself(void **state) {
    (void)state;
    ty_metrics *m = ty_metrics_create();
    ty_metric *f = ty_metrics_histogram(m, "h", "H", "s", (const double[]){0.1, 1}, 2);
    ty_metric_observe(f, 0.1, TY_LABELS("v"));
    ty_metric_observe(f, 0.5, TY_LABELS("v"));
    ty_metric_observe(f, 7, TY_LABELS("v"));
    ty_metric_observe(f, (double)NAN, TY_LABELS("v"));
    expect_text(m, "# HELP h H\n# TYPE h histogram\n"
                   "h_bucket{s=\"v\",le=\"0.1\"} 1\nh_bucket{s=\"v\",le=\"1\"} 2\n"
                   "h_bucket{s=\"v\",le=\"+Inf\"} 3\nh_sum{s=\"v\"} 7.6\nh_count{s=\"v\"} 3\n");
    ty_metrics_destroy(&m);
}

static void texts_are_escaped(void **state) {
    (void)state;
    ty_metrics *m = ty_metrics_create();
    ty_metric *f = ty_metrics_gauge(m, "g", "a \"q\"\nb\\", "l");
    ty_metric_set(f, 1, TY_LABELS("x\"y\\z\n"));
    expect_text(m, "# HELP g a \"q\"\\nb\\\\\n# TYPE g gauge\ng{l=\"x\\\"y\\\\z\\n\"} 1\n");
    ty_metrics_destroy(&m);
}

static void bad_names_and_doubles_are_refused(void **state) {
    (void)state;
    ty_metrics *m = ty_metrics_create();
    assert_null(ty_metrics_counter(m, "9a", "", NULL));
    assert_null(ty_metrics_counter(m, "a b", "", NULL));
    assert_null(ty_metrics_counter(m, "a", "", "x-y"));
    assert_null(ty_metrics_counter(m, "a", "", "a,b,c,d,e"));
    assert_null(ty_metrics_histogram(m, "h", "", NULL, (const double[]){1, 1}, 2));
    assert_non_null(ty_metrics_counter(m, "a", "", NULL));
    assert_null(ty_metrics_gauge(m, "a", "", NULL));
    ty_metric_add(NULL, 1, NULL);
    ty_metrics_destroy(&m);
}

static void series_are_bounded(void **state) {
    (void)state;
    ty_metrics *m = ty_metrics_create();
    ty_metric *f = ty_metrics_gauge(m, "g", "", "l");
    for (int i = 0; i < TY_METRIC_SERIES_MAX + 10; i++) {
        char v[16];
        snprintf(v, sizeof(v), "%d", i);
        ty_metric_set(f, 1, TY_LABELS(v));
    }
    ty_buf b = ty_buf_make(1 << 20);
    assert_int_equal(ty_metrics_write(m, &b), TY_OK);
    int lines = 0;
    for (const char *p = b.data; *p; p++) lines += *p == '\n';
    assert_int_equal(lines, TY_METRIC_SERIES_MAX + 2);
    ty_buf_clear(&b);
    ty_metrics_destroy(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counter_adds_per_label_values),
        cmocka_unit_test(gauge_sets_and_forgets_on_reset),
        cmocka_unit_test(histogram_accumulates_and_counts_the_bound_itself),
        cmocka_unit_test(texts_are_escaped),
        cmocka_unit_test(bad_names_and_doubles_are_refused),
        cmocka_unit_test(series_are_bounded),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
