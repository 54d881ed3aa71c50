package pages

import "github.com/onceshop/onceshop/internal/proof/lab/brokers"

// brokersTable is what brokers do with a message that comes again: recorded, or measured in the
// last round.
type brokersTable struct {
	Columns []brokerColumn
	Rows    []brokerRow
}

type brokerColumn struct {
	Broker string
	On     string
}

type brokerRow struct {
	Title string
	Cells []brokerCell
}

type brokerCell struct {
	ID, Broker string
	Answer     brokers.Answer
	// Now is set if the answer was measured here.
	Now bool
}

// asked is the column of the broker that the lab can ask.
const asked = "nats"

func brokerTable(measured map[string]brokers.Answer) brokersTable {
	var table brokersTable
	recorded := brokers.Recorded()
	for _, column := range recorded {
		table.Columns = append(table.Columns, brokerColumn{column.Broker, column.On})
	}
	for _, q := range brokers.Questions() {
		row := brokerRow{Title: q.Title}
		for _, column := range recorded {
			cell := brokerCell{brokerCellID(column.ID, q), column.Broker, column.Answers[q.ID], false}
			if answer, ok := measured[q.ID]; ok && column.ID == asked && answer.NotAsked == "" {
				cell.Answer, cell.Now = answer, true
			}
			row.Cells = append(row.Cells, cell)
		}
		table.Rows = append(table.Rows, row)
	}
	return table
}

func brokerCellID(column string, q brokers.Question) string { return "broker-" + column + "-" + q.ID }

// askBroker measures the broker's column, and shows each answer on the pages that are open.
func (p *Pages) askBroker(r *round) {
	measured := map[string]brokers.Answer{}
	err := p.lab.AskBroker(p.ctx, func(q brokers.Question, answer brokers.Answer) {
		if answer.NotAsked != "" {
			return
		}
		measured[q.ID] = answer
		r.feed.add(p.part("live-broker", brokerCell{ID: brokerCellID(asked, q), Answer: answer, Now: true}))
	})
	if err != nil {
		p.log.WarnContext(p.ctx, "the broker could not be asked", "error", err)
	}
	r.brokers = measured
}
