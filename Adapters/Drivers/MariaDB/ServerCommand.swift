import Core
import DriverKit
import IO
import Subprocess
import SystemPackage

#if canImport(Glibc)
  import Glibc
#endif

/// A user of this machine, as server processes run.
struct SystemUser: Equatable, Sendable {
  var name: String
  var userID: UInt32
  var groupID: UInt32

  init?(name: String) {
    guard let entry = getpwnam(name) else { return nil }
    self.init(entry.pointee)
  }

  init?(userID: UInt32) {
    guard let entry = getpwuid(userID) else { return nil }
    self.init(entry.pointee)
  }

  private init(_ entry: passwd) {
    (name, userID, groupID) = (String(cString: entry.pw_name), entry.pw_uid, entry.pw_gid)
  }

  static var isRoot: Bool { geteuid() == 0 }
}

/// Runs MariaDB's own programs, and the operator's start and stop commands.
struct ServerCommand: Sendable {
  var executable: String
  var arguments: [String]
  /// `nil` runs as whoever we are; only root can be someone else.
  var user: SystemUser?

  /// - Returns: What it printed, both channels together, at most the last 64 KiB.
  /// - Throws: ``DriverError/engineFailed(_:log:)`` for any end but exit status 0.
  @discardableResult
  func run() async throws(DriverError) -> String {
    var line = [executable] + arguments
    if let user, SystemUser.isRoot {
      // Not by the options of Subprocess: it changes the user between clone3(2) and exec, where the C library may
      // wait for threads that the child does not have.
      line = ["setpriv", "--reuid=\(user.userID)", "--regid=\(user.groupID)", "--clear-groups", "--"] + line
    }
    var options = PlatformOptions()
    options.createSession = true
    options.teardownSequence = [.gracefulShutDown(allowedDurationToNextStep: .seconds(5))]
    let program = Files.last(of: executable)
    do {
      let result = try await Subprocess.run(
        line[0].contains("/") ? .path(FilePath(line[0])) : .name(line[0]),
        arguments: Arguments(Array(line.dropFirst())),
        environment: .custom(
          Dictionary(
            uniqueKeysWithValues: ChildEnvironment.variables(["LC_ALL": "C.UTF-8"]).map {
              (Environment.Key(stringLiteral: $0.key), $0.value)
            })),
        // Ours may be out of the user's reach.
        workingDirectory: "/", platformOptions: options, output: .bytes(limit: 64 << 20), error: .combinedWithOutput)
      let text = String(decoding: result.standardOutput.suffix(1 << 16), as: UTF8.self)
      guard result.terminationStatus.isSuccess else {
        throw DriverError.engineFailed("\(program) failed (\(result.terminationStatus))", log: lastLines(text))
      }
      return text
    } catch let error as DriverError {
      throw error
    } catch is CancellationError {
      throw .cancelled
    } catch {
      if Task.isCancelled { throw .cancelled }
      throw .engineFailed("\(program) could not be run", log: "\(error)")
    }
  }
}

/// The end of a log, where servers say why.
func lastLines(_ text: String, count: Int = 8) -> String {
  text.split(whereSeparator: \.isNewline).suffix(count).joined(separator: "; ")
}

/// Splits a command line at blanks; single and double quotes keep blanks together. No shell is involved.
func splitCommand(_ line: String) -> [String] {
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

func throwIfCancelled() throws(DriverError) { if Task.isCancelled { throw .cancelled } }
