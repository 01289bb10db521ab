import Core
import IO
import Subprocess
import SystemPackage

#if canImport(Glibc)
  import Glibc
#endif

/// Runs an engine's own programs, and the operator's start and stop commands.
package struct ServerCommand: Sendable {
  package var executable: String
  package var arguments: [String]
  /// `nil` runs as whoever we are; only root can be someone else.
  package var user: SystemUser?
  /// Beside the usual ones.
  package var variables: [String: String] = [:]

  package init(executable: String, arguments: [String], user: SystemUser?) {
    (self.executable, self.arguments, self.user) = (executable, arguments, user)
  }

  /// - Returns: What it printed, both channels together, at most the last 64 KiB.
  /// - Throws: ``DriverError/engineFailed(_:log:)`` for any end but exit status 0.
  @discardableResult
  package func run() async throws(DriverError) -> String {
    var line = [executable] + arguments
    if let user, SystemUser.isRoot {
      // Not by the options of Subprocess: it changes the user between clone3(2) and exec, where the C library may
      // wait for threads that the child does not have.
      line = ["setpriv", "--reuid=\(user.userID)", "--regid=\(user.groupID)", "--clear-groups", "--"] + line
    }
    // A server must not die with the terminal that started it.
    var options = PlatformOptions()
    options.createSession = true
    options.teardownSequence = [.gracefulShutDown(allowedDurationToNextStep: .seconds(5))]
    let program = Files.last(of: executable)
    do {
      let output = try unlinkedFile()
      let result = try await Subprocess.run(
        line[0].contains("/") ? .path(FilePath(line[0])) : .name(line[0]),
        arguments: Arguments(Array(line.dropFirst())),
        // What it says is read by people who read English, and some by us.
        environment: .custom(
          Dictionary(
            uniqueKeysWithValues: ChildEnvironment.variables(
              ["LC_ALL": "C.UTF-8", "LC_MESSAGES": "C"].merging(variables) { _, new in new }
            ).map {
              (Environment.Key(stringLiteral: $0.key), $0.value)
            })),
        // Ours may be out of the user's reach.
        workingDirectory: "/", platformOptions: options, input: .none,
        output: .fileDescriptor(FileDescriptor(rawValue: output.descriptor), closeAfterSpawningProcess: false),
        error: .combinedWithOutput)
      let text = try output.lastText(1 << 16)
      guard result.terminationStatus.isSuccess else {
        throw DriverError.engineFailed("\(program) failed (\(result.terminationStatus))", log: lastLines(text))
      }
      return text
    } catch let error as DriverError {
      throw error
    } catch let error as SystemFailure {
      throw .engineFailed("\(program) could not be run", log: error.message)
    } catch is CancellationError {
      throw .cancelled
    } catch {
      if Task.isCancelled { throw .cancelled }
      throw .engineFailed("\(program) could not be run", log: "\(error)")
    }
  }
}

/// A file without a name, for what a child prints: a pipe would have to be read for as long as it lives, and a daemon that it
/// leaves behind would hold it open for good.
package func unlinkedFile() throws(SystemFailure) -> File {
  var template = Array("/tmp/salvor-output-XXXXXX".utf8CString)
  let descriptor = mkstemp(&template)
  guard descriptor >= 0 else { throw SystemFailure("mkstemp", path: "/tmp") }
  unlink(template)
  _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
  return File(adopting: descriptor, path: "output")
}

extension File {
  /// The last `limit` bytes. Blocks.
  package func lastText(_ limit: Int) throws(SystemFailure) -> String {
    let start = max(0, Int64(try status().st_size) - Int64(limit))
    return String(decoding: try read(at: start, count: limit), as: UTF8.self)
  }
}

/// The end of a log, where servers say why.
package func lastLines(_ text: String, count: Int = 8) -> String {
  text.split(whereSeparator: \.isNewline).suffix(count).joined(separator: "; ")
}

/// Splits a command line at blanks; single and double quotes keep blanks together. No shell is involved.
package func splitCommand(_ line: String) -> [String] {
  var words: [String] = []
  var word: String?
  var quote: Character?
  for character in line {
    if let open = quote {
      if character == open { quote = nil } else { word = (word ?? "") + String(character) }
    } else if character == "'" || character == "\"" {
      quote = character
      word = word ?? ""
    } else if character.isWhitespace {
      if let done = word { words.append(done) }
      word = nil
    } else {
      word = (word ?? "") + String(character)
    }
  }
  if let word { words.append(word) }
  return words
}

/// Where work in pieces may be ended between two of them.
package func throwIfCancelled() throws(DriverError) { if Task.isCancelled { throw .cancelled } }

/// Runs a command line that the operator set under `option`, without a shell.
package func runCommand(_ line: String, option: String, store: StoreName) async throws(DriverError) {
  let words = splitCommand(line)
  guard let first = words.first else { throw .badOption(store: store, option: option, why: "is empty") }
  try await ServerCommand(executable: first, arguments: Array(words.dropFirst()), user: nil).run()
}
