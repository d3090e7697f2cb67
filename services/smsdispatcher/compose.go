package smsdispatcher

import "fmt"

// texts are the messages by locale. The code stands first, where a notification shows it. With an app name of up to 37
// characters a message fits one segment: 70 characters in Japanese (UCS-2), 160 in English (GSM 03.38).
var texts = map[string]string{
	"ja": "%[1]s は %[2]s の確認コードです。だれにも教えないでください。",
	"en": "%[1]s is your code for %[2]s. Never share it with anyone.",
}

// text is the message for a user who signs in to an app.
func text(locale, app, code string) string {
	format, ok := texts[locale]
	if !ok {
		format = texts["ja"]
	}
	return fmt.Sprintf(format, code, app)
}

// hint is a number as it is shown to whoever is signing in: the last four digits, and nothing of its length or country.
func hint(number string) string {
	return "•••-••••-" + number[max(0, len(number)-4):]
}
