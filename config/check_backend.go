package config

import "net/url"

func (c *checker) timestampAuthorities() {
	urls := make(map[string]int)
	for i, t := range c.file.TimestampAuthorities {
		at := index("timestamp_authorities", i)
		c.serviceURL(join(at, "url"), t.URL, func(u *url.URL) {
			same := canonicalURL(u)
			if first, again := urls[same]; again {
				c.bad(join(at, "url"), "the entry in line %d has the same URL; remove one of them", c.file.Line(index("timestamp_authorities", first)))
				return
			}
			urls[same] = i
		})
		if t.Certificates == "" {
			c.bad(join(at, "certificates"), "required; name the PEM file with the authority's chain, signing certificate first")
		}
	}
}

// serviceURL checks a required http or https URL, and then what more there is to
// check about it.
func (c *checker) serviceURL(key, raw string, more func(*url.URL)) {
	if raw == "" {
		c.bad(key, "required; write the URL of the service")
		return
	}
	if u := c.url(key, raw, "https", "http"); u != nil {
		more(u)
	}
}
