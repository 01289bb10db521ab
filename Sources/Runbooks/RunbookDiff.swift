import Core

/// What a new edition says otherwise, section by section, and why.
package struct RunbookDiff: Sendable, Equatable, Codable {
  package struct Change: Sendable, Equatable, Codable {
    package var file: String
    package var section: String
    /// The drills' lessons, or the documents, behind it.
    package var lessons: [Lesson]
    package var reasons: [String]
    /// As in a unified diff.
    package var lines: [String]
  }

  package private(set) var changes: [Change] = []

  /// - Parameters:
  ///   - old: What the folder holds, by path.
  ///   - new: What would be written.
  package init(kept: Edition?, old: [String: String], next: Edition, new: [String: String]) {
    let known = Set(kept?.facts.drills.map(\.id) ?? [])
    let fresh = Lesson.all(of: next.facts).filter { !known.contains($0.drill) }
    let documents = Edition.changes(kept?.facts.documents ?? [:], next.facts.documents)
    let scopes = Dictionary(next.scopes.map { ($0.file + ".md", $0) }, uniquingKeysWith: { first, _ in first })
    for name in Set(old.keys).union(new.keys).sorted() where name.hasSuffix(".md") {
      let (before, after) = (Self.sections(old[name] ?? ""), Self.sections(new[name] ?? ""))
      var titles = after.map(\.title)
      titles += before.map(\.title).filter { !titles.contains($0) }
      for title in titles {
        let (was, now) = (Self.lines(of: title, before), Self.lines(of: title, after))
        guard was != now else { continue }
        let services = scopes[name]?.serviceNames
        let lessons = fresh.filter { lesson in
          services.map { !Set(lesson.services).isDisjoint(with: $0) } ?? true && Self.concerns(lesson, title)
        }
        var reasons = lessons.isEmpty ? documents.map(\.words) : []
        if old[name] == nil { reasons = ["this file is new"] }
        if new[name] == nil { reasons = ["what it was about is gone"] }
        if let kept, let text = old[name], let digest = kept.files[name], Digest.of(Notes.without(text)) != digest {
          reasons.append("it was changed by hand")
        }
        if reasons.isEmpty, lessons.isEmpty { reasons = ["newer figures of restores and points, or a newer Salvor"] }
        changes.append(
          Change(file: name, section: title, lessons: lessons, reasons: reasons, lines: UnifiedDiff.hunks(was, now)))
      }
    }
  }

  /// What of a page a lesson can have changed.
  private static func concerns(_ lesson: Lesson, _ title: String) -> Bool {
    ["How long", "Bring it back", "What drills", "The way back", ""].contains { title.hasPrefix($0) }
  }

  private static func sections(_ text: String) -> [(title: String, lines: [String])] {
    var result: [(title: String, lines: [String])] = [("", [])]
    var isCode = false
    for line in text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) {
      if line.hasPrefix("```") { isCode.toggle() }
      if !isCode, line.hasPrefix("## ") { result.append((String(line.dropFirst(3)), [])) }
      if line == "---", !isCode { result.append(("footer", [])) }
      result[result.count - 1].lines.append(line)
    }
    return result
  }

  private static func lines(of title: String, _ sections: [(title: String, lines: [String])]) -> [String] {
    sections.filter { $0.title == title }.flatMap(\.lines)
  }

  /// As it is read.
  package var text: String {
    var lines: [String] = []
    for change in changes {
      lines += ["--- \(change.file): \(change.section.isEmpty ? "the beginning" : change.section)"]
      lines += change.lessons.map { lesson in
        let figures =
          if let before = lesson.before, let after = lesson.after {
            " (\(Duration.seconds(before).brief) → \(Duration.seconds(after).brief))"
          } else { "" }
        return "because of \(lesson.drill): \(OneLine.of(lesson.learned))\(figures); so: \(OneLine.of(lesson.change))"
      }
      lines += change.reasons.map { "because \(OneLine.of($0))" }
      lines += change.lines + [""]
    }
    return lines.joined(separator: "\n")
  }
}

enum UnifiedDiff {
  /// Hunks with three lines around each change.
  static func hunks(_ old: [String], _ new: [String]) -> [String] {
    let difference = new.difference(from: old)
    var (removed, inserted) = (Set<Int>(), Set<Int>())
    for change in difference {
      switch change {
      case .remove(let offset, _, _): removed.insert(offset)
      case .insert(let offset, _, _): inserted.insert(offset)
      }
    }
    // All lines in order, each with its mark and where it is on both sides.
    var rows: [(mark: Character, text: String, old: Int, new: Int)] = []
    var (left, right) = (0, 0)
    while left < old.count || right < new.count {
      if left < old.count, removed.contains(left) {
        rows.append(("-", old[left], left, right))
        left += 1
      } else if right < new.count, inserted.contains(right) {
        rows.append(("+", new[right], left, right))
        right += 1
      } else if left < old.count, right < new.count {
        rows.append((" ", old[left], left, right))
        (left, right) = (left + 1, right + 1)
      } else {
        break
      }
    }
    return hunks(rows)
  }

  private static func hunks(_ rows: [(mark: Character, text: String, old: Int, new: Int)]) -> [String] {
    var lines: [String] = []
    var index = 0
    while let first = rows[index...].firstIndex(where: { $0.mark != " " }) {
      let start = max(index, first - 3)
      var (end, quiet) = (first, 0)
      while end < rows.count, quiet <= 6 {
        quiet = rows[end].mark == " " ? quiet + 1 : 0
        end += 1
      }
      end -= max(0, quiet - 3)
      let part = rows[start..<end]
      let (olds, news) = (part.count { $0.mark != "+" }, part.count { $0.mark != "-" })
      lines.append("@@ -\(rows[start].old + 1),\(olds) +\(rows[start].new + 1),\(news) @@")
      lines += part.map { "\($0.mark)\($0.text)" }
      index = end
    }
    return lines
  }
}
