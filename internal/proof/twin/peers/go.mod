module github.com/onceshop/onceshop/internal/proof/twin/peers

go 1.26
