module fastgw.test/deck

go 1.21

require github.com/kong/deck v1.12.3

replace github.com/imdario/mergo v0.3.12 => github.com/Kong/mergo v0.3.13

replace github.com/yudai/gojsondiff v1.0.0 => github.com/Kong/gojsondiff v1.3.0
