package smsdispatcher

import (
	"fmt"
	"time"
)

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

// noticeTexts say by locale and kind of change what happened, without naming anybody. The time makes them the change's own,
// for a provider that knows a message by its text; it is UTC, since nobody knows where the user is.
var noticeTexts = map[string]map[string]string{
	"ja": {
		"device-enrolled": "Sekisho: %s スマートフォンが登録されました。心当たりがなければ管理者に連絡してください。",
		"device-removed":  "Sekisho: %s スマートフォンが削除されました。心当たりがなければ管理者に連絡してください。",
	},
	"en": {
		"device-enrolled": "Sekisho: a phone was added to your account on %s. If this was not you, contact your administrator.",
		"device-removed":  "Sekisho: a phone was removed from your account on %s. If this was not you, contact your administrator.",
	},
}

var noticeTimes = map[string]string{"ja": "01/02 15:04(UTC)", "en": "2 January at 15:04 UTC"}

// noticeText is the message for a user whose phones were changed. It fits one segment, as a code does.
func noticeText(locale, kind string, at time.Time) string {
	if _, ok := noticeTexts[locale]; !ok {
		locale = "ja"
	}
	return fmt.Sprintf(noticeTexts[locale][kind], at.UTC().Format(noticeTimes[locale]))
}

// hint is a number as it is shown to whoever is signing in: the last four digits, and nothing of its length or country.
func hint(number string) string {
	return "•••-••••-" + number[max(0, len(number)-4):]
}
