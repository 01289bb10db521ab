import Core

/// A set of runbooks as it is kept in a folder: what it was made from, and what every file was when it was written.
package struct Edition: Sendable, Equatable, Codable {
  /// The file that says what the others were made from.
  package static let factsFile = "runbook.json"

  package enum Format: String, Sendable, Codable, CaseIterable {
    case md, html
  }

  package var format = RunbookPage.format
  package var facts: RunbookFacts
  /// `nil`: all of them.
  package var domain: String?
  package var formats: [Format]
  /// Of each file, notes left out.
  package var files: [String: Digest] = [:]

  package init(_ facts: RunbookFacts, domain: String? = nil, formats: [Format] = Format.allCases) {
    (self.facts, self.domain) = (facts, domain)
    self.formats = Format.allCases.filter(formats.contains)
  }

  package var scopes: [Scope] {
    Scope.all(of: facts).filter { domain == nil || $0.domain == domain }
  }

  /// Every file but ``factsFile``, by its path in the folder.
  ///
  /// - Parameter notes: By the file's name without its ending.
  package func render(notes: [String: Notes] = [:]) -> [String: String] {
    var files: [String: String] = [:]
    let scopes = scopes
    for scope in scopes {
      let page = RunbookPage(facts, scope).page()
      add(page, scope.file, notes[scope.file] ?? Notes(), to: &files)
      for case .drawing(let drawing) in page.sections.flatMap(\.blocks) where formats.contains(.md) {
        files["pictures/\(drawing.name).svg"] = SVG.text(drawing)
      }
    }
    add(index(scopes), "index", notes["index"] ?? Notes(), to: &files)
    return files
  }

  /// The same, with the digests that are kept beside them.
  package func sealed(notes: [String: Notes] = [:]) throws -> (edition: Edition, files: [String: String]) {
    var (edition, files) = (self, render(notes: notes))
    edition.files = files.mapValues { Digest.of(Notes.without($0)) }
    files[Self.factsFile] = try CanonicalJSON.text(edition, pretty: true) + "\n"
    return (edition, files)
  }

  private func add(_ page: Page, _ name: String, _ notes: Notes, to files: inout [String: String]) {
    for format in formats {
      switch format {
      case .md: files[name + ".md"] = Markdown(notes: notes, picture: { "pictures/\($0.name).svg" }).render(page)
      case .html: files[name + ".html"] = HTML(notes: notes).render(page)
      }
    }
  }

  private func index(_ scopes: [Scope]) -> Page {
    let matrix = Matrix(facts)
    let ending = formats.contains(.md) ? ".md" : ".html"
    return Page(
      title: "Runbooks",
      sections: [
        Section(
          "runbooks", "Runbooks",
          [
            .table(
              ["runbook", "services"],
              scopes.map { ["\(link: $0.domain ?? "the whole system", to: $0.file + ending)", $0.serviceNames.listed] })
          ]), Section("matrix", "Who owns, who approves, who is called", [matrix.block(of: facts.services)]),
      ], footer: RunbookPage(facts, Scope(domain: nil, services: facts.services)).footer())
  }
}

extension Notes {
  /// A page with every note taken out: what was made, and nothing else.
  package static func without(_ text: String) -> String {
    var (lines, isNote) = ([Substring](), false)
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      let bare = line.drop { $0 == " " }
      if bare.hasPrefix("<!-- /notes -->") { isNote = false }
      if !isNote { lines.append(line) }
      if bare.hasPrefix("<!-- notes:") { isNote = true }
    }
    return lines.joined(separator: "\n")
  }
}
