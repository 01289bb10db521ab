import Core
import DriverKit
import IO

/// Which files of a quorum queue are whose: what a node knows, and writes down up to three minutes after a queue was declared.
///
/// The library beneath quorum queues keeps, beside each queue's files, their settings with the queue's name, and a table from
/// names to files, which is written when it is closed or after its usual pause. Without its line in the table a queue would
/// begin anew, with none of its messages. So the table of a copy is completed from the settings, by Erlang itself.
///
/// The settings also name the directory in which the files are, and a node follows that: a copy somewhere else would be read
/// there, and written. So the directory is set as well, before any node is started on a copy.
///
/// Source: `ra_directory` and `ra_server_sup_sup` of ra 2.0: `names.dets` holds `{Name, UId}`, `<UId>/config` one map with `id` and `uid`.
enum QueueNames {
  /// The directories of a node in which there is such a table.
  static func places(_ directory: String, _ node: String) -> [String] {
    ["quorum", "coordination"].map { "\(directory)/\($0)/\(node)" }.filter { Files.exists("\($0)/names.dets") }
  }

  /// Ends with 3 where two have files for one name, as while a queue is deleted.
  static let program = """
    try
      [Dir, Target] = init:get_plain_arguments(),
      {ok, Names} = file:list_dir(Dir),
      Found = lists:append([
        case file:consult(filename:join([Dir, Name, "config"])) of
          {ok, [#{id := {Server, _}, uid := UId} = Config]} ->
            System = maps:get(system_config, Config, #{}),
            Moved = maps:map(fun(data_dir, _) -> Target; (wal_data_dir, _) -> Target; (_, Value) -> Value end, System),
            ok = file:write_file(
              filename:join([Dir, Name, "config"]), io_lib:format("~tp.~n", [Config#{system_config => Moved}])),
            [{Server, UId}];
          {error, enoent} -> [];
          {error, enotdir} -> [];
          _ ->
            {ok, Files} = file:list_dir(filename:join(Dir, Name)),
            [] = [File || File <- Files, filename:extension(File) =:= ".segment"],
            []
        end || Name <- Names]),
      case length(lists:usort([Server || {Server, _} <- Found])) of
        Count when Count =:= length(Found) -> ok;
        _ -> halt(3)
      end,
      {ok, Table} = dets:open_file(names, [{file, filename:join(Dir, "names.dets")}, {auto_save, infinity}]),
      ok = dets:insert(Table, Found),
      ok = dets:close(Table),
      halt(0)
    catch
      Class:Reason -> io:format("~p ~p~n", [Class, Reason]), halt(1)
    end.
    """
}

extension RabbitMQDriver {
  /// Completes the tables of a copy.
  ///
  /// - Parameters:
  ///   - directory: The node's, in the copy.
  ///   - target: Where it will be when a node is started on it.
  func completeNames(_ directory: String, _ node: String, as target: String) async throws(DriverError) {
    try await environment.pool.run { () throws(DriverError) in
      for place in QueueNames.places(directory, node) {
        let result: (code: Int32, output: String)
        do throws(SystemFailure) {
          result = try OwnProcess.run([
            "env", "HOME=\(directory)", "ERL_CRASH_DUMP_SECONDS=0", "erl", "-noshell", "-noinput", "-boot",
            "no_dot_erlang",
            "-eval", QueueNames.program, "-extra", place, target + place.dropFirst(directory.count),
          ])
        } catch { throw .engineFailed("erl can't be run", log: error.message) }
        switch result.code {
        case 0: break
        case 3: throw .engineFailed("a quorum queue was being deleted at the mark; take the point again", log: "")
        case 126, 127: throw .engineFailed("erl can't be run", log: lastLines(result.output))
        default: throw .corrupt("the names of quorum queues can't be read: \(lastLines(result.output))")
        }
      }
    }
  }
}
