package browsertest

import (
	"fmt"
	"testing"

	"github.com/onceshop/onceshop/internal/app/apptest"
	"github.com/onceshop/onceshop/internal/proof"
	"github.com/onceshop/onceshop/internal/shoptest"
)

const experiment = "/lab/unique-double-click"

// startLab starts a shop whose lab has a provider and a mailbox.
func startLab(t *testing.T) *apptest.Shop {
	t.Helper()
	provider := shoptest.Provider(t, shoptest.ProviderOptions{})
	smtp, mailbox := shoptest.Mailbox(t)
	return apptest.Start(t, 1, withLab(proof.DemoServers{
		Provider: func() (string, func(), error) { return provider, func() {}, nil },
		Mailbox:  func() (string, string, func(), error) { return smtp, mailbox, func() {}, nil },
	}))
}

// predictAndRun chooses one order, which is wrong, and runs both twins.
func (b *tab) predictAndRun() {
	b.t.Helper()
	b.visit(visit{name: "lab-experiment", path: experiment})
	b.click(`input[name=guess][value="1"]`)
	b.click(`form[action="` + experiment + `#run"] button`)
	b.await("the prediction is taken", `location.search == '?guess=1'`)
	b.inspect("lab-predicted")
	b.click(`form.run button`)
	b.await("both twins have run", `document.querySelectorAll('.verdict').length == 2`)
}

// With JavaScript, a run is played back: step by step, and then all of it.
func TestLabPages(t *testing.T) {
	t.Parallel()
	b := newGuest(t, startLab(t).Nodes[0])
	b.visit(visit{name: "lab", path: "/lab"})
	b.predictAndRun()

	// The tab asks for less motion, so the playback waits.
	const hidden = `[...document.querySelectorAll('.step, .parting, .answer, .result, .counts')].filter(e =>
		getComputedStyle(e).visibility == 'hidden').length`
	b.await("the playback is set up", hidden+" > 0")
	steps := eval[int](b, "document.querySelectorAll('.step').length")
	if before := eval[int](b, hidden); steps < 8 || before != steps+7 {
		t.Errorf("%d elements are hidden before the playback of %d steps", before, steps)
	}
	b.click("#step")
	b.click("#step")
	b.await("two steps are shown", `document.querySelectorAll('.step.shown').length == 2 &&
		document.getElementById('place').textContent.startsWith('Step 2 of ')`)
	b.inspect("lab-playing")
	b.click("#play")
	b.await("the playback goes on", `document.querySelectorAll('.step.shown').length > 2 &&
		document.getElementById('play').textContent == 'Pause'`)
	b.click("#play")
	b.await("the playback pauses", `document.getElementById('play').textContent == 'Play'`)
	b.click("#all")
	b.await("everything is shown", hidden+` == 0`)
	if marks := eval[int](b, "document.querySelectorAll('.parting').length"); marks != 2 ||
		!b.shows("You predicted 1 order") || !b.shows("ends with 2 orders") {
		t.Errorf("%d marks where the twins part", marks)
	}
	b.inspect("lab-experiment-done")
}

// Without it, the page lists all steps.
func TestLabWithoutScripts(t *testing.T) {
	t.Parallel()
	b := newGuest(t, startLab(t).Nodes[0])
	b.withoutScripts()
	b.goTo(experiment)
	b.click(`input[name=guess][value="2"]`)
	b.click(`form[action="` + experiment + `#run"] button`)
	b.await("the prediction is taken", `location.search == '?guess=2'`)
	b.click(`form.run button`)
	b.await("both twins have run", `document.querySelectorAll('.verdict').length == 2`)
	seen := eval[int](b, `[...document.querySelectorAll('.step')].filter(e => e.checkVisibility()).length`)
	if player := eval[bool](b, "document.getElementById('player').checkVisibility()"); seen < 8 || player ||
		!b.shows("You are right.") {
		t.Errorf("%d steps, a player: %v", seen, player)
	}
}

// The matrix fills while all experiments run.
func TestLabMatrix(t *testing.T) {
	t.Parallel()
	b := newGuest(t, startLab(t).Nodes[0])
	b.goTo("/lab")
	b.click(`#all button`)
	b.await("the first rows are there, and more to come", `location.search == '?watch' &&
		document.querySelector('#unique-double-click-naive .verdict.duplicates') != null &&
		document.querySelector('#broker-all-layers-naive .verdict.none') != null`)
	for _, strategy := range []string{"unique", "memory", "redis", "broker"} { // each within its own time
		b.await("those of "+strategy+" have run",
			fmt.Sprintf(`document.querySelector('.matrix [id^="%s-"] .verdict.none') == null`, strategy))
	}
	b.await("all have run", `document.querySelectorAll('.matrix .verdict.none').length == 0 &&
		document.querySelector('#latency-broker b') != null`)
	b.inspect("lab-done")
}
