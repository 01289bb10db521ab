import Core
import DriverKit
import IO

/// What a node knows and its files don't, yet: written into a copy by Erlang itself, before any node is started on it.
///
/// **Outcomes of transactions.** Whatever is defined is kept by Mnesia. A transaction that changes tables on disk and in memory, as
/// declaring, binding and deleting do, is logged as one that counts only with its outcome behind it; the outcome is logged by
/// another process, which nobody waits for. So the log is synchronised and the client is answered, and the outcome may still be on
/// its way, or for two seconds in the log's own memory. A node that finds no outcome takes the transaction back. A node that is alone
/// has no way to do so once the transaction is in the log: whatever has no outcome there has been made, and the copy is told so.
///
/// Source: `mnesia_tm` (`check_prep`, `multi_commit`, `rec_acc_pre_commit`), `mnesia_recover` (`log_decision`, `wait_for_decision`)
/// of mnesia 4.21; `disk_log_1` of kernel 8.5 for the two seconds; `rabbit_misc` (`execute_mnesia_transaction`) of RabbitMQ 3.10.
///
/// **Names of quorum queues.** The library beneath quorum queues keeps, beside each queue's files, their settings with the queue's
/// name, and a table from names to files, which is written when it is closed or up to three minutes later. Without its line in
/// the table a queue would begin anew, with none of its messages. So the table is completed from the settings.
///
/// **Paths of quorum queues.** The settings also name the directory in which the files are, and a node follows that: a copy
/// somewhere else would be read there, and written. So the directory is set as well.
///
/// Source: `ra_directory` and `ra_server_sup_sup` of ra 2.0: `names.dets` holds `{Name, UId}`, `<UId>/config` one map with `id` and `uid`.
enum Completion {
  /// Ends with 3 where two have files for one name, as while a queue is deleted.
  static let program = """
    try
      [Dir, Target, Node] = init:get_plain_arguments(),
      % A log that was just begun has nothing in its file.
      IsLog = fun(File) -> filelib:is_regular(File) andalso filelib:file_size(File) >= 8 end,
      Chunks = fun Chunks(Log, At, Found) ->
        case disk_log:chunk(Log, At) of
          eof -> Found;
          {Next, Terms} -> Chunks(Log, Next, [Terms | Found]);
          {Next, Terms, _} -> Chunks(Log, Next, [Terms | Found])
        end
      end,
      Terms = fun(Name) ->
        File = filename:join(Dir, Name),
        case IsLog(File) of
          false -> [];
          true ->
            {ok, Log} = disk_log:open([{name, Name}, {file, File}, {mode, read_only}]),
            Found = lists:append(lists:reverse(Chunks(Log, start, []))),
            ok = disk_log:close(Log),
            Found
        end
      end,
      Logged = lists:flatmap(Terms, ["PREVIOUS.LOG", "LATEST.LOG"]),
      Outcome = fun
        Outcome({decision_list, List}, Known) -> lists:foldl(Outcome, Known, List);
        Outcome(Term, Known) when element(1, Term) =:= decision -> Known#{element(2, Term) => known};
        Outcome(_, Known) -> Known
      end,
      Tables = lists:flatmap(Terms, ["DECISION_TAB.LOG", "PDECISION.LOG", "DECISION.LOG"]),
      Known = lists:foldl(Outcome, #{}, Tables ++ Logged),
      Made = [
        {decision, Tid, committed, [], []}
        || Commit <- Logged, element(1, Commit) =:= commit,
          {decision, Tid, presume_abort, _, _} <- [element(3, Commit)], not maps:is_key(Tid, Known)],
      case Made of
        [] -> ok;
        _ ->
          [File | _] = [File || File <- [filename:join(Dir, "LATEST.LOG"), filename:join(Dir, "PREVIOUS.LOG")], IsLog(File)],
          Log = case disk_log:open([{name, made}, {file, File}, {repair, true}, {quiet, true}]) of
            {ok, Opened} -> Opened;
            {repaired, Opened, _, _} -> Opened
          end,
          ok = disk_log:log_terms(Log, Made),
          ok = disk_log:sync(Log),
          ok = disk_log:close(Log)
      end,
      lists:foreach(fun(Sub) ->
        Place = filename:join([Dir, Sub, Node]),
        There = filename:join([Target, Sub, Node]),
        {ok, Names} = file:list_dir(Place),
        Found = lists:append([
          case file:consult(filename:join([Place, Name, "config"])) of
            {ok, [#{id := {Server, _}, uid := UId} = Config]} ->
              System = maps:get(system_config, Config, #{}),
              Moved = maps:map(fun(data_dir, _) -> There; (wal_data_dir, _) -> There; (_, Value) -> Value end, System),
              ok = file:write_file(
                filename:join([Place, Name, "config"]), io_lib:format("~tp.~n", [Config#{system_config => Moved}])),
              [{Server, UId}];
            {error, enoent} -> [];
            {error, enotdir} -> [];
            _ ->
              {ok, Files} = file:list_dir(filename:join(Place, Name)),
              [] = [File || File <- Files, filename:extension(File) =:= ".segment"],
              []
          end || Name <- Names]),
        case length(lists:usort([Server || {Server, _} <- Found])) of
          Count when Count =:= length(Found) -> ok;
          _ -> halt(3)
        end,
        {ok, Table} = dets:open_file(names, [{file, filename:join(Place, "names.dets")}, {auto_save, infinity}]),
        ok = dets:insert(Table, Found),
        ok = dets:close(Table)
      end, [Sub || Sub <- ["quorum", "coordination"], filelib:is_regular(filename:join([Dir, Sub, Node, "names.dets"]))]),
      io:format("~n~b~n", [length(Made)]),
      halt(0)
    catch
      Class:Reason -> io:format("~p ~p~n", [Class, Reason]), halt(1)
    end.
    """
}

extension RabbitMQDriver {
  /// Completes a copy, once or again.
  ///
  /// - Parameters:
  ///   - directory: The node's, in the copy.
  ///   - target: Where it will be when a node is started on it.
  /// - Returns: How many transactions were made and had no outcome in the files.
  @discardableResult
  func complete(_ directory: String, _ node: String, as target: String) async throws(DriverError) -> Int {
    try await environment.pool.run { () throws(DriverError) -> Int in
      let result: (code: Int32, output: String)
      do throws(SystemFailure) {
        result = try OwnProcess.run([
          "env", "HOME=\(directory)", "ERL_CRASH_DUMP_SECONDS=0", "erl", "-noshell", "-noinput", "-boot",
          "no_dot_erlang", "-eval", Completion.program, "-extra", directory, target, node,
        ])
      } catch { throw .engineFailed("erl can't be run", log: error.message) }
      switch result.code {
      case 0: break
      case 3: throw .engineFailed("a quorum queue was being deleted at the mark; take the point again", log: "")
      case 126, 127: throw .engineFailed("erl can't be run", log: lastLines(result.output))
      default: throw .corrupt("a copy's definitions or queues can't be read: \(lastLines(result.output))")
      }
      // Notes of Erlang's may come before it.
      guard let made = result.output.split(separator: "\n").last.flatMap({ Int($0) }) else {
        throw .engineFailed("erl says what nobody understands", log: lastLines(result.output))
      }
      return made
    }
  }
}
