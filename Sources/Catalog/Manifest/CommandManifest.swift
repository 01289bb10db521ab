import Core

extension Codec where Value == Command {
  /// `"pg_ctl start"`, `[pg_ctl, start]`, or a mapping that says more.
  static let command = Codec(.either([.text, .list(.scalar), .record(CommandManifest.table.shape)])) { node, decoding in
    if case .mapping = node.content {
      guard let manifest = CommandManifest.table.read(node, &decoding), let words = manifest.command else { return nil }
      return Command(
        words, environment: manifest.env, workingDirectory: manifest.workingDirectory, user: manifest.user,
        timeout: manifest.timeout)
    }
    return Codec<[String]>.words.read(node, &decoding).map { Command($0) }
  }
}

/// The long form of a command.
struct CommandManifest: Sendable {
  var command: [String]?
  var env: [String: EnvironmentValue] = [:]
  var workingDirectory: String?
  var user: String?
  var timeout: Duration = .seconds(60)

  static let table = Table(
    "Command", "A program and how it is run; no shell is involved.", initial: { CommandManifest() },
    fields: [
      Field(
        "command", \.command, Codec<[String]>.words.optional, required: true,
        "The program and its arguments: a list, or one line split at blanks, quotes respected."),
      Field(
        "env", \.env, Codec<EnvironmentValue>.environmentValue.dictionary,
        "Variables added to a minimal environment; `{secret: file:/run/secrets/x}` for what must not be read here."),
      Field("workingDirectory", \.workingDirectory, Codec<String>.path.optional, default: "`/`", "Where it runs."),
      Field("user", \.user, Codec<String>.phrase.optional, default: "Salvor's own", "The system user it runs as."),
      Field("timeout", \.timeout, .positiveDuration, default: "`60s`", "After this it is ended, and has failed."),
    ])
}

extension Codec where Value == EnvironmentValue {
  static let environmentValue = Codec(.either([.scalar, .record(EnvironmentManifest.table.shape)])) { node, decoding in
    if case .mapping = node.content {
      return EnvironmentManifest.table.read(node, &decoding)?.secret.map { .secret($0) }
    }
    guard let text = Codec<String>.scalar.read(node, &decoding) else { return nil }
    if text.utf8.contains(0) {
      decoding.report(.badValue, at: node.mark, "a variable can't hold a NUL", "leave it out")
      return nil
    }
    return .text(text)
  }
}

struct EnvironmentManifest: Sendable {
  var secret: SecretReference?

  static let table = Table(
    "SecretVariable", "A variable whose value is read when the command is run.", initial: { EnvironmentManifest() },
    fields: [
      Field("secret", \.secret, Codec<SecretReference>.secret.optional, required: true, "Where the value is read from.")
    ])
}

extension Codec where Value == [String] {
  /// A command line: a list, or one line.
  static let words = Codec(.either([.text, .list(.scalar)])) { node, decoding in
    let words: [String]
    if case .sequence = node.content {
      guard let list = Codec<String>.scalar.list.read(node, &decoding) else { return nil }
      words = list
    } else {
      guard let line = Codec<String>.text.read(node, &decoding) else { return nil }
      guard let split = splitWords(line) else {
        decoding.report(
          .badValue, at: node.mark, "a quote in the command is never closed", "close it, or write the command as a list"
        )
        return nil
      }
      words = split
      if line.utf8.contains(where: shellBytes.contains), let mark = split.first(where: isForShell) {
        decoding.report(
          .shellSyntax, at: node.mark, "no shell reads this: '\(excerpt(mark))' is passed to the program as it is",
          "if a shell is meant, write [sh, -c, \"…\"]")
      }
    }
    guard let program = words.first, !program.isEmpty, !words.contains(where: { $0.utf8.contains(0) }) else {
      decoding.report(.badValue, at: node.mark, "the command is empty, or holds a NUL", "name a program")
      return nil
    }
    return words
  }
}

private let shellBytes = Array("|&;<>$`".utf8)

private func isForShell(_ word: String) -> Bool {
  shellWords.contains(word) || word.contains("$(") || word.contains("`")
}

private let shellWords: Set<String> = ["|", "||", "&", "&&", ";", ">", ">>", "<", "2>&1", "2>"]

/// Splits at blanks. `'…'` keeps everything, `"…"` all but `\"` and `\\`, and outside a `\` keeps what follows it.
///
/// - Returns: `nil` if a quote is not closed or a `\` ends the line.
func splitWords(_ line: String) -> [String]? {
  // Everything that has a meaning is ASCII, so bytes will do.
  let bytes = Array(line.utf8)
  var words: [String] = []
  var word: [UInt8]?
  var quote: UInt8?
  var index = 0
  while index < bytes.count {
    let byte = bytes[index]
    let next = index + 1 < bytes.count ? bytes[index + 1] : nil
    index += 1
    if let open = quote {
      if byte == open {
        quote = nil
      } else if open == doubleQuote, byte == backslash, let next, next == doubleQuote || next == backslash {
        word?.append(next)
        index += 1
      } else {
        word?.append(byte)
      }
    } else if byte == singleQuote || byte == doubleQuote {
      quote = byte
      word = word ?? []
    } else if byte == backslash {
      guard let next else { return nil }
      word = (word ?? []) + [next]
      index += 1
    } else if byte == 32 || (9...13).contains(byte) {
      if let finished = word { words.append(String(decoding: finished, as: UTF8.self)) }
      word = nil
    } else if word == nil {
      word = [byte]
    } else {
      word?.append(byte)
    }
  }
  guard quote == nil else { return nil }
  if let finished = word { words.append(String(decoding: finished, as: UTF8.self)) }
  return words
}

private let singleQuote = UInt8(ascii: "'")
private let doubleQuote = UInt8(ascii: "\"")
private let backslash = UInt8(ascii: "\\")
