package pglog

import "bytes"

// Severity is the severity of a message. Only those that are counted have a
// name of their own.
type Severity string

// The severities that are counted; everything below WARNING is Quiet.
const (
	Quiet   Severity = ""
	Warning Severity = "WARNING"
	Error   Severity = "ERROR"
	Fatal   Severity = "FATAL"
	Panic   Severity = "PANIC"
)

// section says what a line of a stderr log begins.
type section int

const (
	noSection section = iota
	newMessage
	detailSection
	contextSection
	locationSection
	statementSection
	otherSection // HINT, QUERY, BACKTRACE
)

// word is what the word before a colon means at the start of a line.
type word struct {
	section  section
	severity Severity
}

// words are the words of PostgreSQL's message catalogues (lc_messages) in every
// language that it has been shipped with, as far as they differ. jsonlog never
// translates a severity; csvlog and stderr do.
var words = func() map[string]word {
	table := make(map[string]word)
	add := func(w word, texts ...string) {
		for _, text := range texts {
			table[text] = w
		}
	}
	add(word{newMessage, Quiet}, "LOG", "INFO", "NOTICE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3", "DEBUG4", "DEBUG5",
		"HINWEIS", "NOTIFICA", "გამართვა", "ჟურნალი", "ინფორმაცია", "디버그", "로그", "정보", "알림", "ОТЛАДКА", "СООБЩЕНИЕ",
		"ИНФОРМАЦИЯ", "ЗАМЕЧАНИЕ", "LOGG", "NOTIS", "НАЛАГОДЖЕННЯ", "ЗАПИСУВАННЯ", "ІНФОРМАЦІЯ", "ПОВІДОМЛЕННЯ", "调试", "日志", "信息", "注意",
		"NOTA", "DZIENNIK", "INFORMACJA", "UWAGA", "BİLGİ", "NOT", "日誌", "紀錄", "資訊")
	add(word{newMessage, Warning}, "WARNING", "WARNUNG", "ATTENTION", "ATTENZIONE", "გაფრთხილება", "경고", "ПРЕДУПРЕЖДЕНИЕ", "VARNING", "ПОПЕРЕДЖЕННЯ",
		"警告", "AVISO", "OSTRZEŻENIE", "UYARI", "VAROVÁNÍ")
	add(word{newMessage, Error}, "ERROR", "FEHLER", "ERREUR", "ERRORE", "შეცდომა", "오류", "ОШИБКА", "FEL", "ПОМИЛКА", "错误",
		"ERRO", "BŁĄD", "HATA", "CHYBA", "錯誤")
	add(word{newMessage, Fatal}, "FATAL", "FATALE", "ფატალური", "치명적오류", "ВАЖНО", "FATALT", "ФАТАЛЬНО", "致命错误",
		"KATASTROFALNY", "ÖLÜMCÜL (FATAL)", "ÖLÜMCÜL", "致命錯誤")
	add(word{newMessage, Panic}, "PANIC", "PANIK", "PANICO", "პანიკა", "손상", "ПАНИКА", "ПАНІКА", "比致命错误还过分的错误",
		"PÂNICO", "PANIKA", "KRİTİK")
	add(word{section: detailSection}, "DETAIL", "DETALLE", "DÉTAIL", "DETTAGLI", "詳細", "დეტალები", "상세정보", "ПОДРОБНОСТИ", "DETALJ", "ВІДОМОСТІ",
		"详细信息", "DETALHE", "SZCZEGÓŁY", "DETAY", "詳細內容")
	add(word{section: contextSection}, "CONTEXT", "ZUSAMMENHANG", "CONTEXTO", "CONTEXTE", "CONTESTO", "文脈", "კონტექსტი", "내용", "КОНТЕКСТ", "KONTEXT",
		"上下文", "KONTEKST", "BAĞLAM")
	add(word{section: locationSection}, "LOCATION", "ORT", "UBICACIÓN", "EMPLACEMENT", "POSIZIONE", "場所", "მდებარეობა", "위치", "ПОЛОЖЕНИЕ", "PLATS",
		"РОЗТАШУВАННЯ", "位置", "LOCAL", "POŁOŻENIE", "YER")
	add(word{section: otherSection}, "HINT", "TIPP", "ASTUCE", "SUGGERIMENTO", "ヒント", "მინიშნება", "힌트", "ПОДСКАЗКА", "TIPS", "УКАЗІВКА", "提示", "DICA",
		"PODPOWIEDŹ", "İPUCU", "DOPORUČENÍ",
		"QUERY", "ANFRAGE", "CONSULTA", "REQUÊTE", "問い合わせ", "მოთხოვნა", "쿼리", "ЗАПРОС", "FRÅGA", "ЗАПИТ", "查询", "ZAPYTANIE", "SORGU", "DOTAZ",
		"BACKTRACE", "PILE D'APPEL", "バックトレース", "სტეკი", "역추적", "СТЕК", "ВІДСТЕЖУВАТИ")
	add(word{section: statementSection}, "STATEMENT", "ANWEISUNG", "SENTENCIA", "INSTRUCTION", "ISTRUZIONE", "文", "ოპერატორი", "명령 구문", "ОПЕРАТОР", "SATS", "ІНСТРУКЦІЯ", "语句",
		"COMANDO", "WYRAŻENIE", "KOMUT", "PŘÍKAZ", "叙述") //nolint:misspell // not English
	return table
}()

// severityOf reads the severity of a message. When the word is not known, for
// example in another encoding, the SQLSTATE decides.
func severityOf(severity, sqlstate []byte) Severity {
	if w, ok := words[string(severity)]; ok && w.section == newMessage {
		return w.severity
	}
	if len(sqlstate) != 5 {
		return Quiet
	}
	switch string(sqlstate[:2]) {
	case "00", "02":
		return Quiet
	case "01":
		return Warning
	}
	return Error
}

// isQuiet says that a message is below WARNING.
func isQuiet(severity, sqlstate []byte) bool {
	return bytes.Equal(severity, []byte("LOG")) || severityOf(severity, sqlstate) == Quiet
}

// isTrouble says that a message below WARNING is about damage all the same: VACUUM
// logs what is wrong with an index, and goes on.
func isTrouble(sqlstate []byte) bool { return string(sqlstate) == "XX002" }
