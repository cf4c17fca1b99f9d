module memorycluster.io/benchmarks/openloop

go 1.19
