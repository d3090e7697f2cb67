module github.com/sekisho/sekisho/schemas

go 1.26.0
