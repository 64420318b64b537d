//go:build tools

// Package tools names the program that is built here for the tests.
package tools

import _ "github.com/kong/deck"
