import Core

private func count(_ number: Int, _ one: String, _ many: String) -> String { "\(number) \(number == 1 ? one : many)" }

/// A page for auditors: questions of three frameworks, and what bundles prove of each.
///
/// Pure. One HTML file without scripts, fonts or pictures from elsewhere. The questions are in Salvor's own words; the number beside
/// each is where the framework asks it.
package struct EvidenceReport: Sendable {
  package struct Source: Sendable {
    package var file: String
    package var digest: Digest
    package var reading: BundleReading

    package init(file: String, digest: Digest, reading: BundleReading) {
      (self.file, self.digest, self.reading) = (file, digest, reading)
    }
  }

  package enum Answer: String, Sendable {
    case proved = "proved"
    case partly = "in part"
    case refuted = "contradicted"
    case unproved = "not proved"
  }

  /// A question, and what was found.
  package struct Line: Sendable {
    package var place: String
    package var question: String
    package var answer: Answer
    package var why: String
    /// Where it stands: `entry 17, record 3`.
    package var by: [String]
  }

  private let sources: [Source]
  private let writtenAt: Timestamp

  package init(sources: [Source], writtenAt: Timestamp) { (self.sources, self.writtenAt) = (sources, writtenAt) }

  // MARK: Facts

  /// A record of a bundle that is sound, and where it is.
  private struct Fact {
    var source: Source
    var record: EvidenceRecord

    func text(_ key: String) -> String? { record.body[key]?.string }
    func number(_ key: String) -> Int64? { record.body[key]?.integer }
  }

  private func facts(_ kind: String, of prefix: String? = nil) -> [Fact] {
    sources.filter { source in source.reading.isSound && (prefix.map { source.reading.run.hasPrefix($0) } ?? true) }
      .flatMap {
        source in
        (source.reading.evidence?.records ?? []).filter { $0.kind == kind }.map { Fact(source: source, record: $0) }
      }
  }

  private func entries(_ action: String) -> [String] {
    sources.filter(\.reading.isSound).flatMap { source in
      source.reading.entries.filter { $0.entry.action == action }.map { "entry \($0.index)" }
    }
  }

  /// A line that is proved by what all of `facts` say.
  private func line(
    _ place: String, _ question: String, _ facts: [Fact], good: (Fact) -> Bool, none: String, all: (Int) -> String,
    some: (Int, Int) -> String
  ) -> Line {
    let right = facts.filter(good)
    let by = places(facts)
    if facts.isEmpty { return Line(place: place, question: question, answer: .unproved, why: none, by: []) }
    if right.count == facts.count {
      return Line(place: place, question: question, answer: .proved, why: all(facts.count), by: by)
    }
    let bad = places(facts.filter { !good($0) })
    return Line(
      place: place, question: question, answer: right.isEmpty ? .refuted : .partly, why: some(right.count, facts.count),
      by: bad)
  }

  /// Such as `recovery-1, records 4–15`.
  private func places(_ facts: [Fact]) -> [String] {
    var result: [(run: String, first: Int, last: Int)] = []
    for fact in facts {
      let (run, index) = (fact.source.reading.run, fact.record.index)
      if let last = result.last, last.run == run, last.last + 1 == index {
        result[result.count - 1].last = index
      } else {
        result.append((run, index, index))
      }
    }
    let texts = result.map { place in
      place.first == place.last
        ? "\(place.run), record \(place.first)" : "\(place.run), records \(place.first)–\(place.last)"
    }
    return texts.prefix(12) + (texts.count > 12 ? ["and \(texts.count - 12) more"] : [])
  }

  private func backedUp(_ place: String, _ question: String) -> Line {
    line(
      place, question, facts("copy", of: "backup-"), good: { $0.text("snapshot") != nil },
      none: "no bundle is about a backup",
      all: { "\(count($0, "copy was", "copies were")) taken, each under the name of its content" },
      some: { "\($0) of \($1) copies have a name" })
  }

  private func consistent(_ place: String, _ question: String) -> Line {
    line(
      place, question, facts("point"), good: { $0.text("mode") != "fuzzy" }, none: "no bundle names a recovery point",
      all: { "\(count($0, "recovery point", "recovery points")), cut at one moment for all stores in it" },
      some: { "\($0) of \($1) recovery points were cut at one moment" })
  }

  private func restored(_ place: String, _ question: String) -> Line {
    line(
      place, question, facts("run", of: "recovery-"),
      good: { ["succeeded", "released"].contains($0.text("state") ?? "") },
      none: "no bundle is about a restore", all: { "\(count($0, "restore", "restores")) ended well" },
      some: { "\($0) of \($1) restores ended well" })
  }

  private func steps(_ place: String, _ question: String) -> Line {
    line(
      place, question, facts("step", of: "recovery-"),
      good: { ["succeeded", "compensated", "skipped"].contains($0.text("state") ?? "") },
      none: "no bundle has a restore's steps",
      all: {
        "\(count($0, "step was", "steps were")) announced before being done, and ended well, in the order of the log"
      },
      some: { "\($0) of \($1) steps ended well" })
  }

  private func compared(_ place: String, _ question: String) -> Line {
    line(
      place, question, facts("comparison"), good: { $0.text("verdict") == "equal" },
      none: "no bundle has a comparison of what was restored with what was recorded",
      all: { "\(count($0, "store was", "stores were")) compared with what was recorded at the backup, and equal" },
      some: { "\($0) of \($1) stores were compared; of the others nobody can say that every row is as it was" })
  }

  private func checked(_ place: String, _ question: String) -> Line {
    line(
      place, question, facts("check"), good: { $0.text("verdict") == "passed" },
      none: "no bundle has a check in or across stores",
      all: { "\(count($0, "check", "checks")) passed: " + self.names("check") },
      some: { "\($0) of \($1) checks passed" })
  }

  private func objective(_ place: String, _ question: String, _ which: String) -> Line {
    line(
      place, question, facts("service").filter { $0.text("\(which)Verdict") != "none" },
      good: { $0.text("\(which)Verdict") == "met" },
      none: "no bundle measures a service that has such an objective",
      all: { "measured for \(count($0, "service", "services")), and met: " + self.times(which) },
      some: { "measured, and met by \($0) of \($1) services: " + self.times(which) })
  }

  private func names(_ kind: String) -> String {
    let names = Set(facts(kind).map(\.record.subject)).sorted()
    return names.prefix(8).joined(separator: ", ") + (names.count > 8 ? " and \(names.count - 8) more" : "")
  }

  private func times(_ which: String) -> String {
    facts("service").filter { $0.text("\(which)Verdict") != "none" }.prefix(8).map { fact in
      func seconds(_ key: String) -> String {
        fact.number(key).map { "\(Double($0) / 1000) s" } ?? "unknown"
      }
      return "\(fact.record.subject) \(seconds("\(which)Milliseconds")) of \(seconds("\(which)ObjectiveMilliseconds"))"
    }.joined(separator: ", ")
  }

  private func documented(_ place: String, _ question: String) -> Line {
    line(
      place, question, facts("manifest"), good: { $0.text("sha256") != nil },
      none: "no bundle has the manifests it ran under",
      all: { "\(count($0, "manifest is", "manifests are")) in the bundles, under the digest of the content" },
      some: { "\($0) of \($1) manifests are there" })
  }

  private func kept(_ place: String, _ question: String) -> Line {
    let sound = sources.filter(\.reading.isSound)
    let by = entries("evidence.written")
    if sound.count < sources.count {
      return Line(
        place: place, question: question, answer: .refuted,
        why: "\(sources.count - sound.count) of \(sources.count) bundles do not verify", by: [])
    }
    let witnessed = sound.filter { !$0.reading.witnesses.isEmpty }
    guard !sound.isEmpty else {
      return Line(place: place, question: question, answer: .unproved, why: "there is no bundle", by: [])
    }
    return witnessed.count == sound.count
      ? Line(
        place: place, question: question, answer: .proved,
        why: "signed twice, in a log that can only grow, which a witness has seen", by: by)
      : Line(
        place: place, question: question, answer: .partly,
        why:
          "signed twice, in a log that can only grow; no witness has seen it, so its keeper could show others another",
        by: by)
  }

  private func elsewhere(_ place: String, _ question: String, _ why: String) -> Line {
    Line(place: place, question: question, answer: .unproved, why: why, by: [])
  }

  // MARK: Questions

  package var chapters: [(title: String, lines: [Line])] {
    [
      (
        "DORA – Regulation (EU) 2022/2554",
        [
          backedUp("Article 12(1)(a)", "Are backups taken, and is it known what each consists of?"),
          elsewhere(
            "Article 12(1)(a)", "Is all data in scope backed up?",
            "which stores there ought to be is for people to compare with the manifests in the bundles"),
          elsewhere(
            "Article 12(1)(a)", "Is it backed up as often as its criticality asks?",
            "bundles are about single acts; how often is in the log itself, which salvor evidence log lists"),
          steps("Article 12(1)(b)", "Are there restoration and recovery procedures, step by step?"),
          restored("Article 12(2)", "Was restoring from backups carried out, and did it work?"),
          elsewhere(
            "Article 12(3)", "Is data restored on systems that are segregated from the source?",
            "stores are restored beside the live ones; that systems are segregated is not in these records"),
          objective("Article 12(6)", "Are recovery time objectives set per function, and met?", "rto"),
          objective("Article 12(6)", "Are recovery point objectives set per function, and met?", "rpo"),
          compared("Article 12(7)", "Was the integrity of restored data checked?"),
          checked("Article 12(7)", "Were what was restored, and what depends on it, checked before it was used?"),
          kept("Article 11(6), 13(1)", "Are tests and incidents on record so that they can be looked into later?"),
        ]
      ),
      (
        "ISO 22301:2019",
        [
          documented("7.5.3", "Is documented information controlled, and protected from changes?"),
          objective("8.2.2", "Are time frames for resuming activities set, and known to be kept?", "rto"),
          consistent("8.3.4", "Is the data that recovery relies on consistent?"),
          steps("8.4.4", "Do plans say what is done, in which order?"),
          restored("8.4.5", "Did recovery work when it was needed or tried?"),
          restored("8.5", "Were procedures exercised or used, and do the results bear them out?"),
          checked("9.1", "Is what was done measured and evaluated?"),
          kept("9.1", "Is documented information kept as evidence of the results?"),
          elsewhere(
            "9.3", "Has management reviewed the results?", "that is for people; this page is what they look at"),
        ]
      ),
      (
        "NIST SP 800-34 Rev. 1",
        [
          objective("3.2.1", "Are recovery time objectives known for each system?", "rto"),
          objective("3.2.1", "Are recovery point objectives known for each system?", "rpo"),
          backedUp("3.4.2", "Is data backed up, and is it known what is in each copy?"),
          elsewhere(
            "3.4.2", "Are copies kept off site?",
            "where a repository and its mirrors are is in the manifests, not in what was measured"),
          restored("3.5.1", "Was recovery from backups tried out?"),
          steps("4.3.1", "Did recovery follow a sequence of activities, and is it on record?"),
          compared("4.4.2", "Was restored data tested and validated as complete and current?"),
          checked("4.4.3", "Was functionality tested after recovery?"),
          kept("4.4.8", "Were actions and problems documented?"),
        ]
      ),
    ]
  }

  // MARK: HTML

  package var html: String {
    let isSound = sources.allSatisfy(\.reading.isSound)
    let chapters = chapters
    let all = chapters.flatMap(\.lines)
    func answered(_ answer: Answer) -> Int { all.filter { $0.answer == answer }.count }
    var page = """
      <!doctype html>
      <html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
      <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
      <title>Evidence of recovery</title>
      <style>\(Self.style)</style></head><body>
      <header><h1>Evidence of recovery</h1>
      <p class="lead">\(isSound ? "Every bundle verifies." : "<strong class=\"bad\">Not every bundle verifies.</strong> What doesn’t counts for nothing below.")
      Of \(all.count) questions \(answered(.proved)) are proved, \(answered(.partly)) in part, \(answered(.unproved)) not, \
      \(answered(.refuted)) contradicted.</p>
      <p class="small">Written \(escaped(writtenAt.format(fractionDigits: 0))). Proved means: a record that was signed, under a checkpoint of a log
      that can only grow, says so. It was not changed since; that it was true when it was written, nobody can prove this way.
      Anybody can check it: <code>salvor evidence verify BUNDLE --key KEYS</code>.</p></header>

      """
    for chapter in chapters {
      page +=
        "<section><h2>\(escaped(chapter.title))</h2>\n<table class=\"questions\"><thead><tr><th>Where</th><th>Question</th><th>Answer</th><th>What shows it</th></tr></thead><tbody>\n"
      for line in chapter.lines {
        let by = line.by.isEmpty ? "" : "<div class=\"by\">\(line.by.map(escaped).joined(separator: " · "))</div>"
        page += "<tr><td>\(escaped(line.place))</td><td>\(escaped(line.question))</td>"
        page += "<td><span class=\"answer \(Self.mark(line.answer))\">\(line.answer.rawValue)</span></td>"
        page += "<td>\(escaped(line.why))\(by)</td></tr>\n"
      }
      page += "</tbody></table></section>\n"
    }
    for source in sources { page += section(source) }
    page += "</body></html>\n"
    return page
  }

  private func section(_ source: Source) -> String {
    let reading = source.reading
    var page = """
      <section class="source"><h2>\(escaped(reading.run.isEmpty ? source.file : reading.run))</h2>
      <dl><dt>File</dt><dd>\(escaped(source.file)), SHA-256 <code>\(source.digest.hex)</code></dd>
      <dt>Log</dt><dd>\(escaped(reading.origin)), \(reading.size) entries</dd>
      <dt>Root</dt><dd><code>\(reading.root?.hex ?? "–")</code></dd><dt>Exported</dt><dd>\(escaped(reading.exportedAt))</dd></dl>
      <h3>What was verified</h3><table><tbody>

      """
    for finding in reading.findings {
      let mark = finding.verdict == .proved ? "good" : finding.verdict == .refuted ? "bad" : "open"
      page +=
        "<tr><td><span class=\"answer \(mark)\">\(finding.verdict.rawValue)</span></td><td>\(escaped(finding.what))</td><td>\(escaped(finding.why))</td></tr>\n"
    }
    page += "</tbody></table>\n"
    guard reading.isSound, let evidence = reading.evidence else { return page + "</section>\n" }
    page +=
      "<h3>Records</h3><table class=\"small\"><thead><tr><th>No.</th><th>Kind</th><th>Subject</th><th>Content</th></tr></thead><tbody>\n"
    for record in evidence.records.prefix(500) {
      let body = (record.body.object ?? [:]).sorted { $0.key < $1.key }.compactMap { key, value -> String? in
        switch value {
        case .null: nil
        case .string(let text): "\(key): \(text.prefix(200))"
        case .integer(let number): "\(key): \(number)"
        case .bool(let flag): "\(key): \(flag)"
        default: (try? CanonicalText.encode(value)).map { "\(key): \(String(decoding: $0.prefix(200), as: UTF8.self))" }
        }
      }
      page +=
        "<tr><td>\(record.index)</td><td>\(escaped(record.kind))</td><td>\(escaped(record.subject))</td><td>\(escaped(body.joined(separator: "; ")))</td></tr>\n"
    }
    page +=
      "</tbody></table><h3>Entries of the log</h3><table class=\"small\"><thead><tr><th>Entry</th><th>At</th><th>Action</th><th>Subject</th></tr></thead><tbody>\n"
    for (index, entry) in reading.entries.prefix(1000) {
      page +=
        "<tr><td>\(index)</td><td>\(escaped(entry.at))</td><td>\(escaped(entry.action))</td><td>\(escaped(entry.subject))</td></tr>\n"
    }
    return page + "</tbody></table></section>\n"
  }

  private static func mark(_ answer: Answer) -> String {
    switch answer {
    case .proved: "good"
    case .partly: "open"
    case .refuted: "bad"
    case .unproved: "none"
    }
  }

  private func escaped(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "\"": result += "&quot;"
      case "'": result += "&#39;"
      // What is no character of HTML, or turns the text round.
      case _
      where scalar.value < 32 || (127...159).contains(scalar.value) || (0x202a...0x202e).contains(scalar.value)
        || (0x2066...0x2069).contains(scalar.value):
        result += "\u{fffd}"
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }

  private static let style = """
    @page { size: A4; margin: 16mm 14mm }
    body { font: 10.5pt/1.45 system-ui, sans-serif; color: #1a1f24; max-width: 60rem; margin: 2rem auto; padding: 0 1.2rem }
    h1 { font-size: 1.9em; margin: 0 0 .3em } h2 { font-size: 1.25em; margin: 2em 0 .5em } h3 { font-size: 1em; margin: 1.4em 0 .4em }
    .lead { font-size: 1.1em } .small, .by { font-size: .84em; color: #4a545e }
    table { width: 100%; border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .35em .6em .35em 0; border-bottom: 1px solid #dde2e7; overflow-wrap: anywhere }
    th { font-weight: 600; border-bottom: 1.5px solid #8a96a3 } td:first-child { white-space: nowrap }
    .questions { table-layout: fixed } .questions th:nth-child(1) { width: 17% } .questions th:nth-child(2) { width: 30% } .questions th:nth-child(3) { width: 15% }
    tr { break-inside: avoid } h2, h3 { break-after: avoid } .source { break-before: page }
    .answer { display: inline-block; padding: .05em .55em; border-radius: 1em; font-size: .86em; white-space: nowrap; border: 1px solid }
    .good { color: #0b6b3a; background: #e7f5ec } .open { color: #7a5200; background: #fdf4dc } .bad { color: #a1160f; background: #fdeae8 } .none { color: #4a545e; background: #f1f3f5 }
    strong.bad { background: none } dl { display: grid; grid-template-columns: max-content 1fr; gap: .2em 1em } dt { color: #4a545e } dd { margin: 0; overflow-wrap: anywhere }
    code { font-size: .9em } @media print { body { margin: 0; max-width: none; padding: 0 } .answer { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
    """
}
