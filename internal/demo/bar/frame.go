package bar

import (
	"context"
	"encoding/json"
	"html/template"
	"io/fs"
	"net/http"

	"github.com/onceshop/onceshop/web"
)

// Policy is the Content-Security-Policy of pages that Parse made.
const Policy = "default-src 'none'; style-src 'self'; img-src 'self'; font-src 'self'; base-uri 'none'; " +
	"frame-ancestors 'none'"

// Parse returns the templates of another server's pages. Each begins with the template "top", which
// gets a Top, and ends with "bottom".
func Parse(pages fs.FS, funcs template.FuncMap, names ...string) *template.Template {
	t := template.New("pages").Funcs(template.FuncMap{"asset": web.Asset}).Funcs(funcs)
	return template.Must(template.Must(t.ParseFS(files, "top.html")).ParseFS(pages, names...))
}

// Top is the head of a page and the bar above it.
type Top struct {
	Title, Server string
	Bar           template.HTML
}

// Static serves the files that pages of Parse link, and everything else from the handler.
func Static(handler http.Handler) http.Handler {
	static := web.Static()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case len(r.URL.Path) > 8 && r.URL.Path[:8] == "/static/":
			static.ServeHTTP(w, r)
		case r.URL.Path == path+"bar.css":
			styleSheet(w, r)
		default:
			handler.ServeHTTP(w, r)
		}
	})
}

func styleSheet(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeFileFS(w, r, files, "bar.css")
}

// count returns how many objects a witness holds, or 0 if it does not answer.
func count(ctx context.Context, url, path string) int {
	if url == "" {
		return 0
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
	if err != nil {
		return 0
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	var held struct {
		Total    int               `json:"total"`
		Captures []json.RawMessage `json:"captures"`
	}
	if json.NewDecoder(response.Body).Decode(&held) != nil {
		return 0
	}
	return held.Total + len(held.Captures)
}
