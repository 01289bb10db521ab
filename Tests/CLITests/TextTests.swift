import ArgumentParser
import CLI
import Console
import Core
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// What is written about the command line is so.
@Suite("The command line, as it is written about")
struct TextTests {
  private struct Mention: CustomStringConvertible {
    var place: String
    var words: [String]
    var description: String { "\(place): salvor \(words.joined(separator: " "))" }
  }

  @Test func `every command in a remedy or a page exists, with its options`() throws {
    var mentions: [Mention] = []
    for folder in ["Sources", "Adapters", "docs"] {
      for file in try Self.files(below: "\(Self.root)/\(folder)")
      where file.hasSuffix(".swift") || file.hasSuffix(".md") {
        mentions += Self.mentions(in: try Self.text(file), at: file.replacing(Self.root + "/", with: ""))
      }
    }
    #expect(mentions.count > 30)
    for mention in mentions { Self.check(mention) }
  }

  @Test func `every example of a help text parses`() throws {
    var count = 0
    for (path, type) in Self.commands() {
      for line in type.configuration.discussion.split(separator: "\n") {
        guard let start = line.firstRange(of: "salvor "), line.prefix(while: { $0 == " " }).count >= 2 else { continue }
        for part in line[start.lowerBound...].split(separator: "&&") where part.contains("salvor ") {
          let end = part.firstRange(of: "  ")?.lowerBound ?? part.endIndex
          let plain = part[..<end].prefix { $0 != "|" && $0 != ">" }
          let words = plain.split(separator: " ").dropFirst().map(String.init)
          count += 1
          do { _ = try SalvorCommand.parseAsRoot(words) } catch {
            Issue.record(
              "salvor \(path.joined(separator: " ")) --help shows '\(plain)': \(SalvorCommand.message(for: error))")
          }
        }
      }
    }
    #expect(count > 20)
  }

  @Test func `every command that does something shows an example`() {
    for (path, type) in Self.commands() where type.configuration.subcommands.isEmpty {
      #expect(type.configuration.discussion.contains("EXAMPLE"), "salvor \(path.joined(separator: " "))")
      #expect(!type.configuration.abstract.isEmpty)
    }
  }

  @Test func `exit statuses are documented as they are`() throws {
    let page = try Self.text("\(Self.root)/docs/reference/exit-codes.md")
    for status in ExitStatus.allCases {
      #expect(page.contains("| \(status.rawValue) | \(status.meaning) |"), "\(status)")
    }
  }

  @Test func `every command is on the reference page`() throws {
    let page = try Self.text("\(Self.root)/docs/reference/cli.md")
    for (path, type) in Self.commands() where !path.isEmpty && type.configuration.subcommands.isEmpty {
      #expect(page.contains("`salvor \(path.joined(separator: " "))"), "salvor \(path.joined(separator: " "))")
    }
  }

  // MARK: The tree of commands

  private static func commands(
    _ type: any ParsableCommand.Type = SalvorCommand.self, _ path: [String] = []
  ) -> [(path: [String], type: any ParsableCommand.Type)] {
    [(path, type)]
      + type.configuration.subcommands.flatMap { commands($0, path + [$0.configuration.commandName ?? "?"]) }
  }

  private static func check(_ mention: Mention) {
    var type: any ParsableCommand.Type = SalvorCommand.self
    var rest = mention.words[...]
    while let word = rest.first, !type.configuration.subcommands.isEmpty {
      if word.hasPrefix("-") { break }
      guard let next = type.configuration.subcommands.first(where: { $0.configuration.commandName == word }) else {
        Issue.record("no such command: \(mention)")
        return
      }
      type = next
      rest = rest.dropFirst()
    }
    let help = SalvorCommand.helpMessage(for: type, columns: 200)
    for option in rest where option.hasPrefix("--") {
      let name = option.prefix { $0 != "=" }
      #expect(help.contains(name), "no such option: \(mention)")
    }
  }

  // MARK: Mentions

  /// What stands between backticks and begins with `salvor `, and lines of code blocks that do.
  private static func mentions(in text: String, at place: String) -> [Mention] {
    var found: [Mention] = []
    var isInBlock = false
    for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      if line.drop(while: { $0 == " " }).hasPrefix("```") {
        isInBlock.toggle()
        continue
      }
      var spans = line.split(separator: "`", omittingEmptySubsequences: false).enumerated().filter {
        $0.offset % 2 == 1
      }
      .map { String($0.element) }
      if isInBlock, place.hasSuffix(".md") { spans = [String(line.drop { $0 == " " || $0 == "$" })] }
      for span in spans where span.hasPrefix("salvor ") {
        let command = span.prefix { $0 != "|" && $0 != ">" && $0 != "#" && $0 != ";" && $0 != "&" }
        let words = command.split(separator: " ").dropFirst().map { String($0) }
        found.append(Mention(place: "\(place):\(number + 1)", words: words))
      }
    }
    return found
  }

  private static let root = Files.parent(of: Files.parent(of: Files.parent(of: #filePath)))

  private static func text(_ path: String) throws -> String { String(decoding: try Files.read(path), as: UTF8.self) }

  private static func files(below path: String) throws -> [String] {
    try Files.names(in: path).flatMap { name -> [String] in
      let child = "\(path)/\(name.lossyText)"
      return Files.isDirectory(child) ? try files(below: child) : [child]
    }
  }
}

@Suite("Text on a terminal")
struct TerminalTextTests {
  @Test func `what is too wide is cut, colours ended, and nothing else touched`() {
    let style = Style(usesColor: true, width: 20)
    let long = style.paint(String(repeating: "x", count: 30), .bad)
    #expect(long.cut(to: 30) == long)
    #expect(long.cut(to: 10) == "\u{1B}[31;1m" + String(repeating: "x", count: 9) + "…\u{1B}[0m")
    #expect(long.cut(to: 10).displayWidth == 10)
    var table = Table("a", "b")
    table.add("one", long)
    for line in table.lines(style) { #expect(line.displayWidth <= 20, "\(line)") }
    #expect(table.lines(.plain)[1].displayWidth == 35, "a file gets all of it")
  }
}
