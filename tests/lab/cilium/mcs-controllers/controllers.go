// Package controllers stands in for a package that the Go module proxy does not have at the version that Cilium
// asks for. Cilium takes one constant from it, for Services of several clusters, which the lab has not.
package controllers

const DerivedServiceAnnotation = "multicluster.kubernetes.io/derived-service"
