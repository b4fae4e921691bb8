from benchmarks.threads import limit_threads

limit_threads(1)
